// Java's own servers, plain and with TLS: FOLDER with key.p12. Each says its name and port; both end with the input.
import com.sun.net.httpserver.*;
import java.io.*;
import java.net.InetSocketAddress;
import java.security.KeyStore;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.*;

public class Servers {
    static void serve(String name, HttpServer server) {
        AtomicInteger count = new AtomicInteger();
        server.createContext("/", exchange -> {
            int length = exchange.getRequestBody().readAllBytes().length;
            String text = exchange.getRequestMethod() + " " + length + " " + count.incrementAndGet();
            boolean bad = exchange.getRequestURI().getPath().equals("/bad");
            exchange.sendResponseHeaders(bad ? 400 : 200, text.length());
            exchange.getResponseBody().write(text.getBytes());
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        System.out.println(name + " " + server.getAddress().getPort());
    }

    public static void main(String[] arguments) throws Exception {
        serve("java", HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0));
        KeyStore keys = KeyStore.getInstance("PKCS12");
        keys.load(new FileInputStream(arguments[0] + "/key.p12"), "secret".toCharArray());
        KeyManagerFactory managers = KeyManagerFactory.getInstance("SunX509");
        managers.init(keys, "secret".toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(managers.getKeyManagers(), null, null);
        HttpsServer secure = HttpsServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        secure.setHttpsConfigurator(new HttpsConfigurator(context));
        serve("java-tls", secure);
        while (System.in.read() >= 0) {}
        System.exit(0);
    }
}
