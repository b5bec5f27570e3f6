// Counts its requests over HTTP: "TOKEN COUNT", the token being drawn at the start. Debian's Go listens with MPTCP where it can.
package main

import (
	"crypto/rand"
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
)

func main() {
	token, count := rand.Text(), atomic.Int64{}
	http.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %d\n", token, count.Add(1))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
