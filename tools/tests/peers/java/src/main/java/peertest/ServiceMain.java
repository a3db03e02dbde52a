package peertest;

import io.aeron.ExclusivePublication;
import io.aeron.Image;
import io.aeron.cluster.client.ClusterException;
import io.aeron.cluster.codecs.CloseReason;
import io.aeron.cluster.service.ClientSession;
import io.aeron.cluster.service.Cluster;
import io.aeron.cluster.service.ClusteredService;
import io.aeron.cluster.service.ClusteredServiceContainer;
import io.aeron.logbuffer.Header;
import org.agrona.DirectBuffer;
import org.agrona.ExpandableArrayBuffer;
import org.agrona.concurrent.BackoffIdleStrategy;
import org.agrona.concurrent.ShutdownSignalBarrier;
import org.agrona.concurrent.UnsafeBuffer;

import java.nio.charset.StandardCharsets;

/**
 * A clustered service in the released container, whose state is a count and a hash of all that it has seen. Each callback
 * is a line on standard output. Arguments: directory of the driver, of the cluster, id of the service.
 */
public final class ServiceMain
{
    private ServiceMain()
    {
    }

    public static void main(final String[] arguments)
    {
        final ShutdownSignalBarrier barrier = new ShutdownSignalBarrier();
        final int serviceId = Integer.parseInt(arguments[2]);
        final ClusteredServiceContainer.Context context = new ClusteredServiceContainer.Context()
            .aeronDirectoryName(arguments[0])
            .clusterDirectoryName(arguments[1])
            .serviceId(serviceId)
            .clusteredService(new Tally())
            .idleStrategySupplier(() -> new BackoffIdleStrategy(10, 20, 1_000, 100_000))
            .errorHandler((error) -> System.err.println("service: " + error))
            .terminationHook(barrier::signalAll);
        final ClusteredServiceContainer container = ClusteredServiceContainer.launch(context);
        barrier.await();
        container.close();
        System.exit(0);
    }

    /** Commands of clients are texts: {@code timer ID DELAY}, {@code forward TEXT}, {@code close}, {@code state}. */
    private static final class Tally implements ClusteredService
    {
        private final ExpandableArrayBuffer buffer = new ExpandableArrayBuffer();
        private Cluster cluster;
        private long count;
        private long hash = 0xcbf29ce484222325L;

        private static void say(final String text)
        {
            System.out.println(text);
            System.out.flush();
        }

        private void take(final String text)
        {
            count++;
            for (final byte value : text.getBytes(StandardCharsets.UTF_8))
            {
                hash = (hash ^ (value & 0xFF)) * 0x100000001b3L;
            }
            say(text);
        }

        private String state()
        {
            return "state " + count + ":" + Long.toHexString(hash);
        }

        public void onStart(final Cluster cluster, final Image snapshotImage)
        {
            this.cluster = cluster;
            if (null == snapshotImage)
            {
                say("start");
                return;
            }
            final boolean[] isLoaded = new boolean[1];
            while (!isLoaded[0])
            {
                final int fragments = snapshotImage.poll(
                    (message, offset, length, header) ->
                    {
                        count = message.getLong(offset);
                        hash = message.getLong(offset + 8);
                        isLoaded[0] = true;
                    },
                    1);
                if (0 == fragments && snapshotImage.isClosed())
                {
                    throw new ClusterException("the snapshot has no state");
                }
                cluster.idleStrategy().idle(fragments);
            }
            final StringBuilder sessions = new StringBuilder();
            cluster.forEachClientSession((session) -> sessions.append(' ').append(session.id()));
            say("start at " + cluster.logPosition() + " " + state() + " sessions" + sessions);
        }

        public void onSessionOpen(final ClientSession session, final long timestamp)
        {
            take("open " + session.id());
        }

        public void onSessionClose(final ClientSession session, final long timestamp, final CloseReason reason)
        {
            take("close " + session.id() + " " + reason);
        }

        public void onSessionMessage(
            final ClientSession session,
            final long timestamp,
            final DirectBuffer message,
            final int offset,
            final int length,
            final Header header)
        {
            final byte[] bytes = new byte[length];
            message.getBytes(offset, bytes);
            final String text = new String(bytes, StandardCharsets.UTF_8);
            if (null == session)
            {
                take("service " + text);
                return;
            }
            if ("state".equals(text))
            {
                reply(session, state());
                return;
            }
            take("message " + length + " " + text.substring(0, Math.min(24, text.length())));
            final String[] words = text.split(" ");
            switch (words[0])
            {
                case "timer":
                    while (!cluster.scheduleTimer(
                        Long.parseLong(words[1]), cluster.time() + Long.parseLong(words[2])))
                    {
                        cluster.idleStrategy().idle();
                    }
                    break;
                case "forward":
                    final int forwarded = buffer.putStringWithoutLengthAscii(0, words[1]);
                    while (cluster.offer(buffer, 0, forwarded) < 0)
                    {
                        cluster.idleStrategy().idle();
                    }
                    break;
                case "close":
                    session.close();
                    break;
                default:
                    reply(session, text);
                    break;
            }
        }

        private void reply(final ClientSession session, final String text)
        {
            final UnsafeBuffer reply = new UnsafeBuffer(text.getBytes(StandardCharsets.UTF_8));
            while (session.offer(reply, 0, reply.capacity()) < 0 && !session.isClosing())
            {
                cluster.idleStrategy().idle();
            }
        }

        public void onTimerEvent(final long correlationId, final long timestamp)
        {
            take("timer " + correlationId);
        }

        public void onTakeSnapshot(final ExclusivePublication publication)
        {
            buffer.putLong(0, count);
            buffer.putLong(8, hash);
            while (publication.offer(buffer, 0, 16) < 0)
            {
                cluster.idleStrategy().idle();
            }
            say("snapshot at " + cluster.logPosition() + " " + state());
        }

        public void onRoleChange(final Cluster.Role newRole)
        {
            say("role " + newRole);
        }

        public void onTerminate(final Cluster cluster)
        {
            say("terminate " + state());
        }
    }
}
