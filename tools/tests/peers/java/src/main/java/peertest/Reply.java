package peertest;

import java.util.List;

/** One line of JSON. */
final class Reply
{
    private final StringBuilder out = new StringBuilder("{");

    private StringBuilder key(final String key)
    {
        return out.append(out.length() > 1 ? "," : "").append('"').append(key).append("\":");
    }

    Reply put(final String key, final long value)
    {
        key(key).append(value);
        return this;
    }

    Reply put(final String key, final boolean value)
    {
        key(key).append(value);
        return this;
    }

    Reply put(final String key, final String value)
    {
        if (value == null)
        {
            key(key).append("null");
        }
        else
        {
            quote(key(key), value);
        }
        return this;
    }

    Reply put(final String key, final List<Reply> list)
    {
        key(key).append('[');
        for (int i = 0; i < list.size(); i++)
        {
            out.append(i > 0 ? "," : "").append(list.get(i).out).append('}');
        }
        out.append(']');
        return this;
    }

    private static void quote(final StringBuilder out, final String value)
    {
        out.append('"');
        for (int i = 0; i < value.length(); i++)
        {
            final char c = value.charAt(i);
            if (c == '"' || c == '\\')
            {
                out.append('\\').append(c);
            }
            else if (c < ' ')
            {
                out.append(String.format("\\u%04x", (int)c));
            }
            else
            {
                out.append(c);
            }
        }
        out.append('"');
    }

    @Override
    public String toString()
    {
        return out + "}";
    }
}
