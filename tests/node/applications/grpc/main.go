// Counts its calls over gRPC: "TOKEN COUNT", the token being drawn at the start. The service is described by hand, its
// messages are protobuf's own, so that nothing has to be generated.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	token, count := rand.Text(), atomic.Int64{}
	answer := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := decode(new(emptypb.Empty)); err != nil {
			return nil, err
		}
		return wrapperspb.String(fmt.Sprintf("%s %d", token, count.Add(1))), nil
	}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Counter",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Count", Handler: answer}},
	}, nil)
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}
