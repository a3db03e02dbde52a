package peertest;

import org.agrona.concurrent.BackoffIdleStrategy;
import org.agrona.concurrent.IdleStrategy;

import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/** Waiting for a condition until a deadline. */
final class Wait
{
    static final long PATIENCE_NS = TimeUnit.SECONDS.toNanos(100);

    private final long deadlineNs = System.nanoTime() + PATIENCE_NS;
    private final IdleStrategy idle = new BackoffIdleStrategy(10, 20, 1_000, 100_000);
    private final String what;

    Wait(final String what)
    {
        this.what = what;
    }

    void idle(final int work)
    {
        if (System.nanoTime() > deadlineNs)
        {
            throw new IllegalStateException(what + " did not come");
        }
        idle.idle(work);
    }

    static void until(final String what, final BooleanSupplier condition)
    {
        final Wait wait = new Wait(what);
        while (!condition.getAsBoolean())
        {
            wait.idle(0);
        }
    }
}
