package app;

import java.util.concurrent.atomic.AtomicLong;

/** The visits since the service has started. */
final class Visits {
    /** One visit. */
    record Visit(long number) {
        String text() {
            return "visit " + number + " on Java " + Runtime.version().feature() + "\n";
        }
    }

    private final AtomicLong count = new AtomicLong();

    Visit next() {
        return new Visit(count.incrementAndGet());
    }
}
