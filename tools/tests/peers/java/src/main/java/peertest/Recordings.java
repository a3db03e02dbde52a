package peertest;

import io.aeron.Aeron;
import io.aeron.Counter;
import io.aeron.archive.Archive;
import io.aeron.archive.ArchiveThreadingMode;
import io.aeron.archive.client.AeronArchive;
import io.aeron.archive.client.RecordingDescriptorConsumer;
import io.aeron.archive.client.ReplayParams;
import io.aeron.archive.client.ReplicationParams;
import io.aeron.archive.codecs.SourceLocation;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

/** Archive clients by name; all calls of one client come one after the other. */
final class Recordings
{
    private static final class Session
    {
        final List<Reply> signals = new ArrayList<>();
        AeronArchive archive;
    }

    private final Aeron aeron;
    private final Streams streams;
    private final Map<String, Session> sessions = new ConcurrentHashMap<>();
    private final Map<String, Counter> limits = new ConcurrentHashMap<>();
    private volatile Events events;

    Recordings(final Aeron aeron, final Streams streams)
    {
        this.aeron = aeron;
        this.streams = streams;
    }

    /** An archive with what its properties say, beside its driver. */
    static Archive.Context server(final String directory)
    {
        return new Archive.Context()
            .aeronDirectoryName(directory)
            .archiveDirectoryName(directory + "-archive")
            .threadingMode(ArchiveThreadingMode.SHARED)
            .deleteArchiveOnStart(true)
            .lowStorageSpaceThreshold(0)
            .errorHandler((error) -> System.err.println("archive: " + error));
    }

    Reply run(final Command command)
    {
        final String verb = command.verb.substring("archive-".length());
        if ("connect".equals(verb))
        {
            return connect(command);
        }
        if ("events-open".equals(verb))
        {
            events = new Events(aeron, command);
            return new Reply();
        }
        if ("events".equals(verb))
        {
            return events.untilStopped();
        }
        final Session session = sessions.get(command.text("archive", "archive"));
        synchronized (session)
        {
            return run(verb, session, command);
        }
    }

    private Reply connect(final Command command)
    {
        final Session session = new Session();
        session.archive = AeronArchive.connect(new AeronArchive.Context()
            .aeron(aeron)
            .ownsAeronClient(false)
            .messageTimeoutNs(TimeUnit.SECONDS.toNanos(30))
            .controlRequestChannel(command.text("request"))
            .controlRequestStreamId(command.integer("request-stream"))
            .controlResponseChannel(command.text("response"))
            .controlResponseStreamId(command.integer("response-stream"))
            .recordingSignalConsumer((control, correlation, recording, subscription, position, signal) ->
                session.signals.add(new Reply()
                    .put("correlation", correlation)
                    .put("recording", recording)
                    .put("subscription", subscription)
                    .put("position", position)
                    .put("signal", signal.name()))));
        sessions.put(command.text("archive", "archive"), session);
        return new Reply()
            .put("controlSession", session.archive.controlSessionId())
            .put("archiveId", session.archive.archiveId());
    }

    private Reply run(final String verb, final Session session, final Command command)
    {
        final AeronArchive archive = session.archive;
        return switch (verb)
        {
            case "start" -> value(archive.startRecording(
                command.text("channel"), command.integer("stream"), source(command), command.flag("auto-stop")));
            case "extend" -> value(archive.extendRecording(command.number("recording"), command.text("channel"),
                command.integer("stream"), source(command), command.flag("auto-stop")));
            case "stop" ->
            {
                archive.stopRecording(command.text("channel"), command.integer("stream"));
                yield new Reply();
            }
            case "stop-subscription" ->
            {
                archive.stopRecording(command.number("subscription"));
                yield new Reply();
            }
            case "try-stop" -> value(archive.tryStopRecordingByIdentity(command.number("recording")) ? 1 : 0);
            case "positions" -> positions(archive, command.number("recording"));
            case "start-position" -> value(archive.getStartPosition(command.number("recording")));
            case "await" -> await(archive, command);
            case "list" -> list(archive, command);
            case "list-subscriptions" -> subscriptions(archive, command);
            case "find" -> value(archive.findLastMatchingRecording(0, command.text("fragment"),
                command.integer("stream"), command.integer("session")));
            case "truncate" -> value(
                archive.truncateRecording(command.number("recording"), command.number("position")));
            case "purge" -> value(archive.purgeRecording(command.number("recording")));
            case "purge-segments" -> value(
                archive.purgeSegments(command.number("recording"), command.number("position")));
            case "detach-segments" ->
            {
                archive.detachSegments(command.number("recording"), command.number("position"));
                yield new Reply();
            }
            case "attach-segments" -> value(archive.attachSegments(command.number("recording")));
            case "delete-detached" -> value(archive.deleteDetachedSegments(command.number("recording")));
            case "migrate-segments" -> value(
                archive.migrateSegments(command.number("recording"), command.number("to")));
            case "update-channel" ->
            {
                archive.updateChannel(command.number("recording"), command.text("channel"));
                yield new Reply();
            }
            case "replay" -> replay(archive, command);
            case "replicate" -> value(archive.replicate(command.number("recording"),
                command.integer("control-stream"), command.text("control"), replication(command)));
            case "stop-replication" ->
                value(archive.tryStopReplication(command.number("replication")) ? 1 : 0);
            case "stop-replays" ->
            {
                archive.stopAllReplays(command.number("recording"));
                yield new Reply();
            }
            case "signals" -> signals(session, command.integer("count"));
            case "error" -> error(archive);
            case "close" ->
            {
                archive.close();
                yield new Reply();
            }
            default -> throw new IllegalArgumentException(command.verb);
        };
    }

    private static Reply value(final long value)
    {
        return new Reply().put("value", value);
    }

    private static SourceLocation source(final Command command)
    {
        return SourceLocation.valueOf(command.text("source", "LOCAL"));
    }

    private static Reply positions(final AeronArchive archive, final long recordingId)
    {
        return new Reply()
            .put("start", archive.getStartPosition(recordingId))
            .put("stop", archive.getStopPosition(recordingId))
            .put("recording", archive.getRecordingPosition(recordingId))
            .put("max", archive.getMaxRecordedPosition(recordingId));
    }

    private static Reply await(final AeronArchive archive, final Command command)
    {
        final long position = command.number("position");
        final Wait wait = new Wait("recorded position " + position);
        while (archive.getMaxRecordedPosition(command.number("recording")) < position)
        {
            wait.idle(0);
        }
        return new Reply();
    }

    private static Reply list(final AeronArchive archive, final Command command)
    {
        final List<Reply> list = new ArrayList<>();
        final RecordingDescriptorConsumer consumer =
            (control, correlation, recording, startTime, stopTime, start, stop, initialTermId, segmentLength,
            termLength, mtu, session, stream, stripped, original, source) -> list.add(new Reply()
                .put("recording", recording)
                .put("start", start)
                .put("stop", stop)
                .put("initialTermId", initialTermId)
                .put("segmentLength", segmentLength)
                .put("termLength", termLength)
                .put("mtu", mtu)
                .put("session", session)
                .put("stream", stream)
                .put("stripped", stripped)
                .put("original", original)
                .put("source", source));
        final int count;
        if (command.text("fragment", null) != null)
        {
            count = archive.listRecordingsForUri(0, 100, command.text("fragment"), command.integer("stream"), consumer);
        }
        else if (command.text("recording", null) != null)
        {
            count = archive.listRecording(command.number("recording"), consumer);
        }
        else
        {
            count = archive.listRecordings(command.number("from", 0), (int)command.number("count", 100), consumer);
        }
        return new Reply().put("count", count).put("recordings", list);
    }

    private static Reply subscriptions(final AeronArchive archive, final Command command)
    {
        final List<Reply> list = new ArrayList<>();
        final int count = archive.listRecordingSubscriptions(0, 100, command.text("fragment"), command.integer("stream"),
            true, (control, correlation, subscription, stream, channel) -> list.add(new Reply()
                .put("subscription", subscription)
                .put("stream", stream)
                .put("channel", channel)));
        return new Reply().put("count", count).put("subscriptions", list);
    }

    private static ReplicationParams replication(final Command command)
    {
        return new ReplicationParams()
            .dstRecordingId(command.number("to", -1))
            .stopPosition(command.number("stop", -1))
            .channelTagId(command.number("channel-tag", -1))
            .subscriptionTagId(command.number("subscription-tag", -1))
            .replicationSessionId((int)command.number("session", -1))
            .fileIoMaxLength((int)command.number("io-length", -1))
            .replicationChannel(command.text("channel", null))
            .srcResponseChannel(command.text("response", null))
            .liveDestination(command.text("live", null));
    }

    /** Starts a replay to a subscription that is then known by its name; with {@code limit}, bounded by that counter. */
    private Reply replay(final AeronArchive archive, final Command command)
    {
        final ReplayParams params = new ReplayParams()
            .position(command.number("position"))
            .length(command.number("length"));
        if (command.text("limit", null) != null)
        {
            params.boundingLimitCounterId(limits.get(command.text("limit")).id());
        }
        streams.put(command.text("name"), archive.replay(
            command.number("recording"), command.text("channel"), command.integer("stream"), params));
        return new Reply();
    }

    /** A counter that bounds replays. */
    Reply limit(final Command command)
    {
        final Counter counter = limits.computeIfAbsent(
            command.text("name"), (name) -> aeron.addCounter(1_001, name));
        counter.setRelease(command.number("value"));
        return new Reply().put("id", counter.id());
    }

    /** An error that belongs to no request. */
    private static Reply error(final AeronArchive archive)
    {
        final Wait wait = new Wait("an error");
        String text;
        while ((text = archive.pollForErrorResponse()) == null)
        {
            wait.idle(0);
        }
        return new Reply().put("error-text", text);
    }

    private static Reply signals(final Session session, final int count)
    {
        final Wait wait = new Wait(count + " signals");
        while (session.signals.size() < count)
        {
            wait.idle(session.archive.pollForRecordingSignals());
        }
        final List<Reply> signals = new ArrayList<>(session.signals);
        session.signals.clear();
        return new Reply().put("signals", signals);
    }
}
