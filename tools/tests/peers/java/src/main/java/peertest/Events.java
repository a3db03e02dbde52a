package peertest;

import io.aeron.Aeron;
import io.aeron.Subscription;
import io.aeron.archive.client.RecordingEventsAdapter;
import io.aeron.archive.client.RecordingEventsListener;

import java.util.ArrayList;
import java.util.List;

/** The recording events of an archive. */
final class Events implements RecordingEventsListener
{
    private final Subscription subscription;
    private final RecordingEventsAdapter adapter;
    private final List<Reply> started = new ArrayList<>();
    private final List<Reply> stopped = new ArrayList<>();
    private long progress = -1;

    Events(final Aeron aeron, final Command command)
    {
        subscription = aeron.addSubscription(command.text("channel"), command.integer("stream"));
        adapter = new RecordingEventsAdapter(this, subscription, 10);
        Wait.until("the archive's events", subscription::isConnected);
    }

    public void onStart(
        final long recordingId,
        final long startPosition,
        final int sessionId,
        final int streamId,
        final String channel,
        final String sourceIdentity)
    {
        started.add(new Reply()
            .put("recording", recordingId)
            .put("start", startPosition)
            .put("stream", streamId)
            .put("channel", channel)
            .put("source", sourceIdentity));
    }

    public void onProgress(final long recordingId, final long startPosition, final long position)
    {
        progress = position;
    }

    public void onStop(final long recordingId, final long startPosition, final long stopPosition)
    {
        stopped.add(new Reply().put("recording", recordingId).put("start", startPosition).put("stop", stopPosition));
    }

    /** Reads events until a recording has stopped. */
    Reply untilStopped()
    {
        final Wait wait = new Wait("the stop of a recording");
        while (stopped.isEmpty())
        {
            wait.idle(adapter.poll());
        }
        subscription.close();
        return new Reply().put("started", started).put("progress", progress).put("stopped", stopped);
    }
}
