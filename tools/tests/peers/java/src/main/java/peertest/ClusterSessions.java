package peertest;

import io.aeron.Aeron;
import io.aeron.Publication;
import io.aeron.cluster.client.AeronCluster;
import io.aeron.cluster.client.EgressListener;
import io.aeron.cluster.codecs.EventCode;
import io.aeron.logbuffer.Header;
import org.agrona.BufferUtil;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.UnsafeBuffer;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

/** Cluster clients by name. */
final class ClusterSessions
{
    /** Checks the echoes of one session. */
    private static final class Session implements EgressListener
    {
        AeronCluster cluster;
        int length;
        long next;
        int newLeaders;
        String event;

        @Override
        public void onMessage(
            final long clusterSessionId,
            final long timestamp,
            final DirectBuffer buffer,
            final int offset,
            final int size,
            final Header header)
        {
            Messages.check(buffer, offset, size, length, next);
            next++;
        }

        @Override
        public void onSessionEvent(
            final long correlationId,
            final long clusterSessionId,
            final long leadershipTermId,
            final int leaderMemberId,
            final EventCode code,
            final String detail)
        {
            event = code + " " + detail;
        }

        @Override
        public void onNewLeader(
            final long clusterSessionId,
            final long leadershipTermId,
            final int leaderMemberId,
            final String ingressEndpoints)
        {
            newLeaders++;
        }
    }

    private final Aeron aeron;
    private final Map<String, Session> sessions = new ConcurrentHashMap<>();

    ClusterSessions(final Aeron aeron)
    {
        this.aeron = aeron;
    }

    Reply run(final Command command)
    {
        final String name = command.text("session", "session");
        final String verb = command.verb.substring("cluster-".length());
        if ("connect".equals(verb))
        {
            return connect(name, command);
        }
        final Session session = sessions.get(name);
        synchronized (session)
        {
            return switch (verb)
            {
                case "echo" -> echo(session, command);
                case "keep-alive" -> keepAlive(session, command.number("millis"));
                case "await-leader" -> awaitLeader(session, command.number("count"));
                case "await-close" -> awaitClose(session);
                case "state" -> describe(session);
                case "close" ->
                {
                    session.cluster.close();
                    yield describe(session);
                }
                default -> throw new IllegalArgumentException(command.verb);
            };
        }
    }

    private Reply connect(final String name, final Command command)
    {
        final Session session = new Session();
        session.cluster = AeronCluster.connect(new AeronCluster.Context()
            .aeron(aeron)
            .ownsAeronClient(false)
            .messageTimeoutNs(TimeUnit.SECONDS.toNanos(command.number("timeout", 30)))
            .newLeaderTimeoutNs(TimeUnit.SECONDS.toNanos(30))
            .ingressChannel("aeron:udp?term-length=1m")
            .ingressEndpoints(command.text("endpoints"))
            .egressChannel("aeron:udp?endpoint=127.0.0.1:0")
            .egressListener(session));
        sessions.put(name, session);
        return describe(session);
    }

    private static Reply describe(final Session session)
    {
        return new Reply()
            .put("session", session.cluster.clusterSessionId())
            .put("term", session.cluster.leadershipTermId())
            .put("leader", session.cluster.leaderMemberId())
            .put("closed", session.cluster.isClosed())
            .put("newLeaders", session.newLeaders)
            .put("event", session.event);
    }

    /**
     * Sends numbered messages, at most {@code window} of them unanswered, and checks that each comes back once and in
     * order.
     */
    private static Reply echo(final Session session, final Command command)
    {
        session.length = command.integer("length");
        final long from = command.number("from", 0);
        final long count = command.number("count");
        final long window = command.number("window", 64);
        session.next = from;
        final UnsafeBuffer message = new UnsafeBuffer(BufferUtil.allocateDirectAligned(session.length, 64));
        final Wait wait = new Wait("echo of " + count + " messages");
        final long startNs = System.nanoTime();
        long sent = from;
        while (session.next < from + count)
        {
            int work = session.cluster.pollEgress();
            if (sent < from + count && sent - session.next < window)
            {
                Messages.fill(message, session.length, sent);
                final long result = session.cluster.offer(message, 0, session.length);
                if (result > 0)
                {
                    sent++;
                    work++;
                }
                else if (result == Publication.MAX_POSITION_EXCEEDED || session.cluster.isClosed())
                {
                    throw new IllegalStateException("session lost after " + session.next + ": " + session.event);
                }
            }
            wait.idle(work);
        }
        return describe(session)
            .put("received", session.next - from)
            .put("millis", TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - startNs));
    }

    private static Reply keepAlive(final Session session, final long millis)
    {
        final long endNs = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(millis);
        long lastNs = 0;
        int sent = 0;
        while (System.nanoTime() < endNs)
        {
            session.cluster.pollEgress();
            if (System.nanoTime() - lastNs > TimeUnit.MILLISECONDS.toNanos(100) && session.cluster.sendKeepAlive())
            {
                sent++;
                lastNs = System.nanoTime();
            }
            Thread.yield();
        }
        return describe(session).put("sent", sent);
    }

    private static Reply awaitLeader(final Session session, final long count)
    {
        final Wait wait = new Wait(count + " announcements of a leader");
        while (session.newLeaders < count)
        {
            wait.idle(session.cluster.pollEgress());
        }
        return describe(session);
    }

    private static Reply awaitClose(final Session session)
    {
        final Wait wait = new Wait("the close of the session");
        while (!session.cluster.isClosed())
        {
            wait.idle(session.cluster.pollEgress());
        }
        return describe(session);
    }
}
