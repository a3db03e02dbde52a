package peertest;

import io.aeron.ExclusivePublication;
import io.aeron.Image;
import io.aeron.archive.Archive;
import io.aeron.archive.ArchiveThreadingMode;
import io.aeron.cluster.ClusteredMediaDriver;
import io.aeron.cluster.ConsensusModule;
import io.aeron.cluster.codecs.CloseReason;
import io.aeron.cluster.service.ClientSession;
import io.aeron.cluster.service.Cluster;
import io.aeron.cluster.service.ClusteredService;
import io.aeron.cluster.service.ClusteredServiceContainer;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import io.aeron.logbuffer.Header;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.ShutdownSignalBarrier;

import java.io.File;

/**
 * The one member of a cluster with a service that keeps nothing, or with {@code none} as its third argument without one.
 * Other arguments: directory of all files, member string. It says {@code ready} on standard output once it leads, without a
 * service once it has begun, and ends when its input does or the cluster is told to end.
 */
public final class Member implements ClusteredService
{
    public static void main(final String[] arguments) throws Exception
    {
        final File home = new File(arguments[0]);
        final String aeron = new File(home, "aeron").getPath();
        final String[] endpoints = arguments[1].split(",");
        final ShutdownSignalBarrier barrier = new ShutdownSignalBarrier();
        final MediaDriver.Context driver = new MediaDriver.Context()
            .aeronDirectoryName(aeron)
            .threadingMode(ThreadingMode.SHARED)
            .termBufferSparseFile(true);
        final Archive.Context archive = new Archive.Context()
            .aeronDirectoryName(aeron)
            .archiveDir(new File(home, "archive"))
            .controlChannel("aeron:udp?endpoint=" + endpoints[5])
            .replicationChannel("aeron:udp?endpoint=127.0.0.1:0")
            .threadingMode(ArchiveThreadingMode.SHARED)
            .lowStorageSpaceThreshold(0);
        final ConsensusModule.Context module = new ConsensusModule.Context()
            .aeronDirectoryName(aeron)
            .clusterDir(new File(home, "cluster"))
            .clusterMemberId(0)
            .clusterMembers(arguments[1])
            .ingressChannel("aeron:udp")
            .replicationChannel("aeron:udp?endpoint=127.0.0.1:0")
            .terminationHook(barrier::signalAll);
        final ClusteredServiceContainer.Context service = new ClusteredServiceContainer.Context()
            .aeronDirectoryName(aeron)
            .clusterDir(new File(home, "cluster"))
            .clusteredService(new Member())
            .terminationHook(barrier::signalAll);
        final boolean isAlone = arguments.length > 2 && "none".equals(arguments[2]);
        try (ClusteredMediaDriver ignored = ClusteredMediaDriver.launch(driver, archive, module);
            ClusteredServiceContainer ignoredToo = isAlone ? null : ClusteredServiceContainer.launch(service))
        {
            if (isAlone)
            {
                System.out.println("ready");
            }
            final Thread input = new Thread(() -> awaitEndOfInput(barrier));
            input.setDaemon(true);
            input.start();
            barrier.await();
        }
        System.exit(0);
    }

    private static void awaitEndOfInput(final ShutdownSignalBarrier barrier)
    {
        try
        {
            while (System.in.read() >= 0)
            {
                // Only the end of it means something.
            }
        }
        catch (final java.io.IOException ignore)
        {
            // As good as its end.
        }
        barrier.signalAll();
    }

    public void onStart(final Cluster cluster, final Image snapshotImage)
    {
    }

    public void onSessionOpen(final ClientSession session, final long timestamp)
    {
    }

    public void onSessionClose(final ClientSession session, final long timestamp, final CloseReason closeReason)
    {
    }

    public void onSessionMessage(
        final ClientSession session,
        final long timestamp,
        final DirectBuffer buffer,
        final int offset,
        final int length,
        final Header header)
    {
    }

    public void onTimerEvent(final long correlationId, final long timestamp)
    {
    }

    public void onTakeSnapshot(final ExclusivePublication snapshotPublication)
    {
    }

    public void onRoleChange(final Cluster.Role newRole)
    {
        if (Cluster.Role.LEADER == newRole)
        {
            System.out.println("ready");
        }
    }

    public void onTerminate(final Cluster cluster)
    {
    }
}
