import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.SecureRandom;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

/** Counts its requests over HTTP: "TOKEN COUNT", the token being drawn at the start. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        long token = new SecureRandom().nextLong(Long.MAX_VALUE);
        AtomicLong count = new AtomicLong();
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 64);
        server.createContext("/count", exchange -> {
            byte[] answer = (token + " " + count.incrementAndGet() + "\n").getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
