package peerbench;

import io.aeron.CncFileDescriptor;
import io.aeron.cluster.ClusterControl;
import io.aeron.cluster.client.AeronCluster;
import org.agrona.concurrent.UnsafeBuffer;
import org.agrona.concurrent.status.AtomicCounter;

import java.io.File;
import java.nio.ByteBuffer;
import java.util.Arrays;

/** What one member does with its state: snapshots, starts from them, timers. */
final class ClusterState
{
    private ClusterState()
    {
    }

    static void run(final Args args) throws Exception
    {
        final int rounds = args.intOf("rounds", 3);
        final String dir = Drivers.newDir("cluster");
        final long[] snapshots = new long[rounds];
        final long[] restarts = new long[rounds];
        final String aeronDir = ClusterNode.aeronDir(args, dir, 0);
        for (int round = -1; round < rounds; round++)
        {
            final Args own = args.with("dir", dir).with("service", "counter").with("keep", round < 0 ? null : "true");
            final long t0 = System.nanoTime();
            try (ClusterNode ignored = new ClusterNode(own))
            {
                awaitReady(aeronDir);
                if (round >= 0)
                {
                    restarts[round] = System.nanoTime() - t0;
                }
                final double ms = ClusterNode.takeSnapshot(aeronDir);
                if (round >= 0)
                {
                    snapshots[round] = (long)(ms * 1e6);
                }
            }
        }
        print(args, "snapshot", snapshots);
        print(args, "restart", restarts);
        delete(new File(dir));
    }

    static void timers(final Args args) throws Exception
    {
        final String dir = Drivers.newDir("cluster");
        final Args own = args.with("dir", dir).with("service", "timers");
        final String aeronDir = ClusterNode.aeronDir(args, dir, 0);
        try (ClusterNode ignored = new ClusterNode(own))
        {
            awaitReady(aeronDir);
            try (AeronCluster client = AeronCluster.connect(new AeronCluster.Context()
                .aeronDirectoryName(aeronDir)
                .ingressChannel("aeron:udp?term-length=1m")
                .ingressEndpoints(ClusterNode.ingressEndpoints(own))
                .egressChannel("aeron:udp?endpoint=127.0.0.1:0")))
            {
                final UnsafeBuffer message = new UnsafeBuffer(ByteBuffer.allocateDirect(32));
                while (client.offer(message, 0, 32) < 0)
                {
                    Thread.yield();
                }
                final double warmup = args.doubleOf("warmup", 5);
                final double seconds = args.doubleOf("seconds", 2);
                Thread.sleep((long)(warmup * 1000));
                final long before = ClusterNode.TimerService.FIRED.get();
                final long t0 = System.nanoTime();
                Thread.sleep((long)(seconds * 1000));
                final long count = ClusterNode.TimerService.FIRED.get() - before;
                new Json("cluster-timers")
                    .put("size", 32)
                    .put("msgs_per_s", count / ((System.nanoTime() - t0) / 1e9))
                    .print();
            }
        }
        delete(new File(dir));
    }

    private static void awaitReady(final String aeronDir) throws Exception
    {
        final long deadline = System.nanoTime() + 60_000_000_000L;
        while (System.nanoTime() < deadline)
        {
            try
            {
                final AtomicCounter toggle = ClusterControl.findControlToggle(
                    ClusterControl.mapCounters(new File(aeronDir, CncFileDescriptor.CNC_FILE)), 0);
                if (toggle != null && ClusterControl.ToggleState.get(toggle) == ClusterControl.ToggleState.NEUTRAL)
                {
                    return;
                }
            }
            catch (final RuntimeException ex)
            {
                // The driver's file is not there yet.
            }
            Thread.sleep(0, 100_000);
        }
        throw new IllegalStateException("the member does not lead after 60 s");
    }

    private static void print(final Args args, final String mode, final long[] times)
    {
        Arrays.sort(times);
        new Json("cluster-state")
            .put("size", args.longOf("state-bytes", 0))
            .put("mode", mode)
            .put("p50_ns", times[times.length / 2])
            .print();
    }

    private static void delete(final File file)
    {
        final File[] children = file.listFiles();
        if (children != null)
        {
            for (final File child : children)
            {
                delete(child);
            }
        }
        file.delete();
    }
}
