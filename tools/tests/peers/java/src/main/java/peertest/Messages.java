package peertest;

import org.agrona.DirectBuffer;
import org.agrona.concurrent.UnsafeBuffer;

/**
 * Numbered messages whose every byte is known: the number, then bytes that follow from number and place. The tests on
 * the other side make and check the same.
 */
final class Messages
{
    static final int MIN_LENGTH = 8;

    private Messages()
    {
    }

    static void fill(final UnsafeBuffer buffer, final int length, final long number)
    {
        buffer.putLong(0, number);
        for (int i = MIN_LENGTH; i < length; i++)
        {
            buffer.putByte(i, (byte)(number * 31 + i * 7L));
        }
    }

    static void check(
        final DirectBuffer buffer, final int offset, final int length, final int expectedLength, final long number)
    {
        if (length != expectedLength)
        {
            throw new IllegalStateException("message " + number + ": length " + length + ", not " + expectedLength);
        }
        final long found = buffer.getLong(offset);
        if (found != number)
        {
            throw new IllegalStateException("message " + found + " where " + number + " was due");
        }
        for (int i = MIN_LENGTH; i < length; i++)
        {
            if (buffer.getByte(offset + i) != (byte)(number * 31 + i * 7L))
            {
                throw new IllegalStateException("message " + number + ": wrong byte at " + i);
            }
        }
    }
}
