package peertest;

import io.aeron.Aeron;
import io.aeron.archive.ArchivingMediaDriver;
import io.aeron.archive.client.ArchiveException;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import io.aeron.exceptions.RegistrationException;
import org.agrona.concurrent.BackoffIdleStrategy;
import org.agrona.concurrent.SleepingMillisIdleStrategy;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/**
 * A client (and on request its media driver, with or without an archive) that does what lines on standard input say. Every line starts with a
 * number; its one line of answer on standard output carries it as {@code id}. Lines run side by side, each on its own
 * thread, so a sender and a receiver can be started together. The process ends when its input does.
 */
public final class Main
{
    private final Aeron aeron;
    private final Streams streams;
    private final Recordings recordings;
    private final ClusterSessions sessions;

    private Main(final String directory)
    {
        aeron = Aeron.connect(new Aeron.Context()
            .aeronDirectoryName(directory)
            .driverTimeoutMs(Long.getLong("peertest.driver.timeout.ms", 30_000))
            .awaitingIdleStrategy(new SleepingMillisIdleStrategy(1))
            .errorHandler((error) -> System.err.println("client: " + error)));
        streams = new Streams(aeron);
        recordings = new Recordings(aeron, streams);
        sessions = new ClusterSessions(aeron);
    }

    public static void main(final String[] arguments) throws Exception
    {
        final String directory = arguments[0];
        final String server = arguments.length > 1 ? arguments[1] : "";
        try (AutoCloseable ignored = switch (server)
        {
            case "driver" -> MediaDriver.launch(driver(directory));
            case "archive" -> ArchivingMediaDriver.launch(driver(directory), Recordings.server(directory));
            default -> null;
        })
        {
            final Main main = new Main(directory);
            print(new Reply().put("id", 0).put("clientId", main.aeron.clientId()));
            main.readLines();
            main.aeron.close();
        }
        System.exit(0);
    }

    private static MediaDriver.Context driver(final String directory)
    {
        final BackoffIdleStrategy idle = new BackoffIdleStrategy(10, 20, 1_000, 100_000);
        return new MediaDriver.Context()
            .aeronDirectoryName(directory)
            .dirDeleteOnStart(true)
            .dirDeleteOnShutdown(true)
            .termBufferSparseFile(true)
            .threadingMode(ThreadingMode.SHARED)
            .sharedIdleStrategy(idle);
    }

    private void readLines() throws IOException
    {
        final BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String line;
        while ((line = in.readLine()) != null)
        {
            final int split = line.indexOf(' ');
            final long id = Long.parseLong(line.substring(0, split));
            final Command command = new Command(line.substring(split + 1));
            if ("exit".equals(command.verb))
            {
                print(new Reply().put("id", id));
                return;
            }
            final Thread thread = new Thread(() -> answer(id, command));
            thread.setDaemon(true);
            thread.start();
        }
    }

    private void answer(final long id, final Command command)
    {
        Reply reply;
        try
        {
            reply = run(command);
        }
        catch (final Throwable error)
        {
            reply = new Reply()
                .put("error", error.getMessage() == null ? error.toString() : error.getMessage())
                .put("kind", error.getClass().getSimpleName());
            if (error instanceof ArchiveException)
            {
                reply.put("code", ((ArchiveException)error).errorCode());
            }
            else if (error instanceof RegistrationException)
            {
                reply.put("code", ((RegistrationException)error).errorCodeValue());
            }
        }
        print(reply.put("id", id));
    }

    private static synchronized void print(final Reply reply)
    {
        System.out.println(reply);
        System.out.flush();
    }

    private Reply run(final Command command)
    {
        if (command.verb.startsWith("archive-"))
        {
            return recordings.run(command);
        }
        if (command.verb.startsWith("cluster-"))
        {
            return sessions.run(command);
        }
        return switch (command.verb)
        {
            case "publish" -> streams.publish(command);
            case "subscribe" -> streams.subscribe(command);
            case "resolve" -> streams.resolve(command);
            case "connected" -> streams.connected(command);
            case "images" -> streams.images(command);
            case "unavailable" -> streams.unavailable(command);
            case "send" -> streams.send(command);
            case "receive" -> streams.receive(command);
            case "stamps" -> streams.stamps(command);
            case "tether" -> streams.tether(command);
            case "drain" -> streams.drain(command);
            case "hang" -> streams.hang(command);
            case "destination" -> streams.destination(command);
            case "receive-destination" -> streams.receiveDestination(command);
            case "reject" -> streams.reject(command);
            case "revoke" -> streams.revoke(command);
            case "counters" -> streams.counters();
            case "limit" -> recordings.limit(command);
            case "close" -> streams.close(command);
            case "halt" -> halt();
            default -> throw new IllegalArgumentException(command.verb);
        };
    }

    /** Ends the process as a crash would: nothing is closed. */
    private static Reply halt()
    {
        Runtime.getRuntime().halt(0);
        return new Reply();
    }
}
