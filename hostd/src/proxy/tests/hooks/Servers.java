// The JDK's own server, and Tomcat. Each says its name and port; both end with the input.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.catalina.startup.Tomcat;

public class Servers {
    static final String HOOKS = "/aws/lambda-microvms/runtime/v1/";

    public static void main(String[] arguments) throws Exception {
        Logger.getLogger("").setLevel(Level.OFF);
        jdk();
        tomcat(arguments[0]);
        System.in.readAllBytes();
        System.exit(0);
    }

    static void jdk() throws IOException {
        AtomicInteger reached = new AtomicInteger();
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext(HOOKS, exchange -> {
            reached.incrementAndGet();
            answer(exchange, "a hook");
        });
        server.createContext("/reached", exchange -> answer(exchange, reached.toString()));
        server.start();
        System.out.println("jdk " + server.getAddress().getPort());
    }

    static void answer(HttpExchange exchange, String text) throws IOException {
        exchange.getRequestBody().readAllBytes();
        exchange.sendResponseHeaders(200, text.length());
        exchange.getResponseBody().write(text.getBytes());
        exchange.close();
    }

    static void tomcat(String folder) throws Exception {
        AtomicInteger reached = new AtomicInteger();
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(folder);
        tomcat.setPort(0);
        tomcat.setHostname("127.0.0.1");
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        var context = tomcat.addContext("", folder);
        Tomcat.addServlet(context, "hooks", servlet(() -> {
            reached.incrementAndGet();
            return "a hook";
        })).addMapping(HOOKS + "*");
        Tomcat.addServlet(context, "reached", servlet(reached::toString)).addMapping("/reached");
        tomcat.start();
        System.out.println("tomcat " + tomcat.getConnector().getLocalPort());
    }

    static HttpServlet servlet(java.util.function.Supplier<String> text) {
        return new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
                response.getWriter().write(text.get());
            }
        };
    }
}
