package peertest;

import io.aeron.Aeron;
import io.aeron.ExclusivePublication;
import io.aeron.FragmentAssembler;
import io.aeron.Image;
import io.aeron.Publication;
import io.aeron.Subscription;
import io.aeron.logbuffer.BufferClaim;
import io.aeron.logbuffer.FragmentHandler;
import org.agrona.BufferUtil;
import org.agrona.concurrent.UnsafeBuffer;
import org.agrona.concurrent.status.CountersReader;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** Publications and subscriptions by name. */
final class Streams
{
    private static final int FRAGMENT_LIMIT = 16;
    /** So many offers that are refused in a row are no hiccup. */
    private static final int BLOCKED_REFUSALS = 200;

    private final Aeron aeron;
    private final Map<String, Publication> publications = new ConcurrentHashMap<>();
    private final Map<String, Subscription> subscriptions = new ConcurrentHashMap<>();

    Streams(final Aeron aeron)
    {
        this.aeron = aeron;
    }

    Subscription subscription(final String name)
    {
        return subscriptions.get(name);
    }

    void put(final String name, final Subscription subscription)
    {
        subscriptions.put(name, subscription);
    }

    Reply publish(final Command command)
    {
        final String channel = command.text("channel");
        final int streamId = command.integer("stream");
        final Publication publication = command.flag("exclusive") ?
            aeron.addExclusivePublication(channel, streamId) : aeron.addPublication(channel, streamId);
        publications.put(command.text("name"), publication);
        return describe(publication);
    }

    private static Reply describe(final Publication publication)
    {
        return new Reply()
            .put("session", publication.sessionId())
            .put("registration", publication.registrationId())
            .put("original", publication.originalRegistrationId())
            .put("position", publication.position())
            .put("initialTermId", publication.initialTermId())
            .put("termLength", publication.termBufferLength())
            .put("maxMessage", publication.maxMessageLength())
            .put("exclusive", publication instanceof ExclusivePublication)
            .put("connected", publication.isConnected());
    }

    Reply subscribe(final Command command)
    {
        final Subscription subscription = aeron.addSubscription(command.text("channel"), command.integer("stream"));
        subscriptions.put(command.text("name"), subscription);
        return new Reply().put("registration", subscription.registrationId());
    }

    Reply resolve(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        Wait.until("the bound port", () -> subscription.tryResolveChannelEndpointPort() != null);
        return new Reply()
            .put("channel", subscription.tryResolveChannelEndpointPort())
            .put("endpoint", subscription.resolvedEndpoint())
            .put("local", String.join(" ", subscription.localSocketAddresses()))
            .put("status", subscription.channelStatus());
    }

    Reply connected(final Command command)
    {
        final Publication publication = publications.get(command.text("name"));
        final boolean wanted = Boolean.parseBoolean(command.text("is", "true"));
        Wait.until("connected=" + wanted, () -> publication.isConnected() == wanted);
        return describe(publication);
    }

    Reply images(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        final int count = command.integer("count");
        Wait.until(count + " images", () -> subscription.imageCount() == count);
        final List<Reply> images = new ArrayList<>();
        for (final Image image : subscription.images())
        {
            images.add(new Reply()
                .put("correlation", image.correlationId())
                .put("session", image.sessionId())
                .put("join", image.joinPosition())
                .put("position", image.position())
                .put("source", image.sourceIdentity())
                .put("termLength", image.termBufferLength()));
        }
        return new Reply().put("images", images);
    }

    /** Waits for the end of one image, whether its stream comes back as another one or not. */
    Reply unavailable(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        final long image = command.number("image");
        Wait.until("the end of image " + image, () ->
            subscription.images().stream().noneMatch((found) -> found.correlationId() == image));
        return new Reply();
    }

    /** Offers numbered messages, or claims them when they fit a frame and {@code claim=true}. */
    Reply send(final Command command)
    {
        final Publication publication = publications.get(command.text("name"));
        final int length = command.integer("length");
        final long from = command.number("from", 0);
        final long end = from + command.number("count");
        final boolean claims = command.flag("claim");
        final UnsafeBuffer message = new UnsafeBuffer(BufferUtil.allocateDirectAligned(length, 64));
        final UnsafeBuffer view = new UnsafeBuffer(0, 0);
        final BufferClaim claim = new BufferClaim();
        final Wait wait = new Wait("room for all messages");
        long number = from;
        while (number < end)
        {
            final long result;
            if (claims)
            {
                result = publication.tryClaim(length, claim);
                if (result > 0)
                {
                    view.wrap(claim.buffer(), claim.offset(), claim.length());
                    Messages.fill(view, length, number);
                    claim.commit();
                }
            }
            else
            {
                Messages.fill(message, length, number);
                result = publication.offer(message, 0, length);
            }
            if (result == Publication.CLOSED || result == Publication.MAX_POSITION_EXCEEDED)
            {
                throw new IllegalStateException("offer: " + result);
            }
            number += result > 0 ? 1 : 0;
            wait.idle(result > 0 ? 1 : 0);
        }
        return new Reply().put("position", publication.position());
    }

    Reply receive(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        final int length = command.integer("length");
        final long from = command.number("from", 0);
        final long end = from + command.number("count");
        final long[] next = { from };
        final FragmentHandler handler = new FragmentAssembler((buffer, offset, size, header) ->
        {
            Messages.check(buffer, offset, size, length, next[0]);
            next[0]++;
        });
        final Wait wait = new Wait("message " + from + " to " + end);
        while (next[0] < end)
        {
            wait.idle(subscription.poll(handler, FRAGMENT_LIMIT));
        }
        return new Reply().put("next", next[0]);
    }

    /** Takes fragments and says what times they carry: in the reserved value and in the first words of the payload. */
    Reply stamps(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        final int count = command.integer("count");
        final List<Reply> fragments = new ArrayList<>();
        final Wait wait = new Wait("fragments");
        while (fragments.size() < count)
        {
            wait.idle(subscription.poll((buffer, offset, length, header) -> fragments.add(new Reply()
                .put("flags", header.flags() & 0xFF)
                .put("reserved", header.reservedValue())
                .put("first", length < 8 ? 0 : buffer.getLong(offset))
                .put("second", length < 16 ? 0 : buffer.getLong(offset + 8))), FRAGMENT_LIMIT));
        }
        return new Reply().put("fragments", fragments);
    }

    /**
     * One subscription is polled, another, untethered, is not. Says when, in ms, the publication was blocked by that one,
     * the other lost its image, the publication went on, and the image came back.
     */
    Reply tether(final Command command)
    {
        final Publication publication = publications.get(command.text("name"));
        final Subscription polled = subscriptions.get(command.text("polled"));
        final Subscription resting = subscriptions.get(command.text("resting"));
        final UnsafeBuffer message = new UnsafeBuffer(BufferUtil.allocateDirectAligned(1000, 64));
        final long startNs = System.nanoTime();
        final long[] timesMs = new long[4];
        long lastOfferMs = 0;
        long join = 0;
        int refusals = 0;
        int step = 0;
        final Wait wait = new Wait("the end of the scenario");
        while (step < timesMs.length)
        {
            final long nowMs = (System.nanoTime() - startNs) / 1_000_000;
            final boolean isOffered = publication.offer(message) > 0;
            refusals = isOffered ? 0 : refusals + 1;
            final List<Image> images = resting.images();
            if (step == 0 && refusals > BLOCKED_REFUSALS && nowMs - lastOfferMs > 100)
            {
                timesMs[step++] = lastOfferMs;
            }
            else if (step == 1 && images.isEmpty())
            {
                timesMs[step++] = nowMs;
            }
            else if (step == 2 && isOffered)
            {
                timesMs[step++] = nowMs;
            }
            else if (step == 3 && !images.isEmpty())
            {
                join = images.get(0).joinPosition();
                timesMs[step++] = nowMs;
            }
            lastOfferMs = isOffered ? nowMs : lastOfferMs;
            wait.idle(polled.poll((buffer, offset, length, header) -> {}, FRAGMENT_LIMIT));
        }
        return new Reply()
            .put("blocked", timesMs[0])
            .put("unavailable", timesMs[1])
            .put("flowing", timesMs[2])
            .put("available", timesMs[3])
            .put("join", join)
            .put("polled", polled.imageAtIndex(0).position());
    }

    /** Takes fragments without a look at them. */
    Reply drain(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        final Wait wait = new Wait("fragments");
        long left = command.number("fragments");
        while (left > 0)
        {
            final int polled = subscription.poll((buffer, offset, length, header) -> {}, FRAGMENT_LIMIT);
            left -= polled;
            wait.idle(polled);
        }
        return new Reply().put("surplus", -left);
    }

    Reply close(final Command command)
    {
        final String name = command.text("name");
        final Publication publication = publications.remove(name);
        final Subscription subscription = subscriptions.remove(name);
        if (publication != null)
        {
            publication.close();
        }
        if (subscription != null)
        {
            subscription.close();
        }
        return new Reply().put("closed", publication != null || subscription != null);
    }

    /** A claim that is neither committed nor aborted. */
    Reply hang(final Command command)
    {
        final BufferClaim claim = new BufferClaim();
        final Publication publication = publications.get(command.text("name"));
        Wait.until("room", () -> publication.tryClaim(command.integer("length"), claim) > 0);
        return new Reply().put("position", publication.position());
    }

    /**
     * Adds a destination of a publication, with {@code async=true} so that its id is known, or removes it by its
     * channel or its id.
     */
    Reply destination(final Command command)
    {
        final Publication publication = publications.get(command.text("name"));
        final long id = command.number("id", Aeron.NULL_VALUE);
        if (id != Aeron.NULL_VALUE)
        {
            publication.removeDestination(id);
        }
        else if (command.flag("remove"))
        {
            publication.removeDestination(command.text("channel"));
        }
        else if (command.flag("async"))
        {
            final long added = publication.asyncAddDestination(command.text("channel"));
            Wait.until("the destination", () -> !aeron.isCommandActive(added));
            return new Reply().put("registration", added);
        }
        else
        {
            publication.addDestination(command.text("channel"));
        }
        return new Reply();
    }

    /** Adds a destination of a subscription, or removes it. */
    Reply receiveDestination(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        if (command.flag("remove"))
        {
            subscription.removeDestination(command.text("channel"));
        }
        else
        {
            subscription.addDestination(command.text("channel"));
        }
        return new Reply();
    }

    Reply reject(final Command command)
    {
        final Subscription subscription = subscriptions.get(command.text("name"));
        subscription.imageAtIndex(0).reject(command.text("reason"));
        return new Reply();
    }

    /** Ends an exclusive publication so that its receivers do not wait for what they lack. */
    Reply revoke(final Command command)
    {
        ((ExclusivePublication)publications.remove(command.text("name"))).revoke();
        return new Reply();
    }

    Reply counters()
    {
        final CountersReader reader = aeron.countersReader();
        final List<Reply> counters = new ArrayList<>();
        reader.forEach((counterId, typeId, key, label) -> counters.add(new Reply()
            .put("id", counterId)
            .put("type", typeId)
            .put("value", reader.getCounterValue(counterId))
            .put("registration", reader.getCounterRegistrationId(counterId))
            .put("label", label)));
        return new Reply().put("counters", counters);
    }
}
