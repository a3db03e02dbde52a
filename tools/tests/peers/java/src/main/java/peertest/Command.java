package peertest;

import java.util.HashMap;
import java.util.Map;

/** One line of input: a verb and {@code key=value} pairs, separated by blanks. */
final class Command
{
    final String verb;
    private final Map<String, String> values = new HashMap<>();

    Command(final String line)
    {
        final String[] words = line.trim().split(" +");
        verb = words[0];
        for (int i = 1; i < words.length; i++)
        {
            final int split = words[i].indexOf('=');
            if (split < 0)
            {
                throw new IllegalArgumentException("expected key=value, found: " + words[i]);
            }
            values.put(words[i].substring(0, split), words[i].substring(split + 1));
        }
    }

    String text(final String key)
    {
        final String value = values.get(key);
        if (value == null)
        {
            throw new IllegalArgumentException(verb + " needs " + key);
        }
        return value;
    }

    String text(final String key, final String otherwise)
    {
        return values.getOrDefault(key, otherwise);
    }

    long number(final String key)
    {
        return Long.parseLong(text(key));
    }

    long number(final String key, final long otherwise)
    {
        return values.containsKey(key) ? number(key) : otherwise;
    }

    int integer(final String key)
    {
        return Integer.parseInt(text(key));
    }

    boolean flag(final String key)
    {
        return Boolean.parseBoolean(text(key, "false"));
    }
}
