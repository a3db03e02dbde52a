#!/usr/bin/env python3
"""Reads the files of an Aeron directory with the offsets of the protocol, independently of every other reader.

usage: check_cnc.py AERON_DIR

Prints a summary as one line of JSON; ends with code 1 at the first field that is not what it has to be.
"""
import glob
import json
import os
import struct
import sys
import time

RING_TRAILER, BROADCAST_TRAILER, METADATA_RECORD, VALUE_RECORD, LOG_METADATA = 768, 128, 512, 128, 4096
MAX_I64 = 2**63 - 1
SYSTEM_LABELS = [
    'Bytes sent', 'Bytes received', 'Failed offers to ReceiverProxy', 'Failed offers to SenderProxy',
    'Failed offers to DriverConductorProxy', 'NAKs sent', 'NAKs received', 'Status Messages sent',
    'Status Messages received', 'Heartbeats sent', 'Heartbeats received', 'Retransmits sent',
    'Flow control under runs', 'Flow control over runs', 'Invalid packets', 'Errors: version=', 'Short sends',
    'Failed attempts to free log buffers', 'Sender flow control limits, i.e. back-pressure events',
    'Unblocked Publications', 'Unblocked Control Commands', 'Possible TTL Asymmetry',
    'ControllableIdleStrategy status', 'Loss gap fills', 'Client liveness timeouts',
    'Resolution changes: driverName=', 'Conductor max cycle time doing its work in ns: ',
    'Conductor work cycle exceeded threshold count: threshold=', 'Sender max cycle time doing its work in ns: ',
    'Sender work cycle exceeded threshold count: threshold=', 'Receiver max cycle time doing its work in ns: ',
    'Receiver work cycle exceeded threshold count: threshold=', 'NameResolver max time in ns',
    'NameResolver exceeded threshold count: threshold=', 'Aeron software: version=1.51.0 commit=',
    'Bytes currently mapped', 'Retransmitted bytes', 'Retransmit Pool Overflow count', 'Error Frames received',
    'Error Frames sent', 'Publications Revoked', 'Publication Images Revoked', 'Images rejected',
    'Control protocol version', 'Status Messages rejected', 'Failed offers to AsyncExecutorProxy']
STREAM_NAMES = {1: 'pub-lmt', 2: 'snd-pos', 3: 'rcv-hwm', 4: 'sub-pos', 5: 'rcv-pos', 9: 'snd-lmt', 12: 'pub-pos (',
                13: 'snd-bpe', 17: 'fc-receivers', 19: 'snd-naks-received', 20: 'rcv-naks-sent'}
CHANNEL_NAMES = {6: 'snd-channel', 7: 'rcv-channel'}
checks = 0


def eq(found, expected, what):
    global checks
    checks += 1
    if found != expected:
        print(f'{what}: {found!r}, not {expected!r}', file=sys.stderr)
        sys.exit(1)


def i32(data, at):
    return struct.unpack_from('<i', data, at)[0]


def i64(data, at):
    return struct.unpack_from('<q', data, at)[0]


def aligned(value, to):
    return (value + to - 1) // to * to


def text(data, at, what):
    length = i32(data, at)
    eq(0 <= length <= len(data) - at - 4, True, f'length of {what}')
    return data[at + 4:at + 4 + length].decode('ascii')


def check_to_driver(ring, now_ms):
    capacity = len(ring) - RING_TRAILER
    eq(capacity & (capacity - 1), 0, 'to-driver capacity is a power of two')
    tail, _, head, correlation, heartbeat = (i64(ring, capacity + 128 * line) for line in range(1, 6))
    eq(0 <= tail - head <= capacity, True, 'to-driver positions')
    eq(abs(now_ms - heartbeat) < 60_000, True, 'heartbeat of the driver')
    if tail == head:
        eq(ring[:capacity].count(0), capacity, 'consumed commands are zeroed')
    return correlation


def check_event(kind, body):
    def checked_end(end):
        eq(end, len(body), f'length of event {kind:#x}')

    if kind == 0xF01:
        checked_end(16 + len(text(body, 12, 'error')))
    elif kind == 0xF02:
        log = text(body, 28, 'log name')
        source_at = 32 + aligned(len(log), 4)
        checked_end(source_at + 4 + len(text(body, source_at, 'source')))
    elif kind in (0xF03, 0xF06):
        checked_end(36 + len(text(body, 32, 'log name')))
    elif kind == 0xF05:
        checked_end(24 + len(text(body, 20, 'channel')))
    else:
        lengths = {0xF04: 8, 0xF07: 12, 0xF08: 12, 0xF09: 12, 0xF0A: 8, 0xF0B: 12, 0xF0D: 12}
        eq(kind in lengths or kind == 0xF0C, True, f'kind of event {kind:#x}')
        if kind in lengths:
            checked_end(lengths[kind])


def check_to_clients(data):
    capacity = len(data) - BROADCAST_TRAILER
    eq(capacity & (capacity - 1), 0, 'to-clients capacity is a power of two')
    intent, tail, latest = (i64(data, capacity + 8 * field) for field in range(3))
    eq(intent, tail, 'tail intent')
    eq(tail <= capacity, True, 'the events of this run fit the buffer')
    at, last, kinds = 0, 0, []
    while at < tail:
        length, kind = i32(data, at), i32(data, at + 4)
        eq(8 <= length <= capacity // 8 + 8, True, f'length of the event at {at}')
        check_event(kind, data[at + 8:at + length])
        kinds.append(kind)
        last, at = at, at + aligned(length, 8)
    eq(at, tail, 'end of the last event')
    eq(last, latest, 'latest event')
    return kinds


def check_system_counter(counter, label, record):
    eq(i32(record, 16), counter, f'key of counter {counter}')
    eq(label.startswith(SYSTEM_LABELS[counter]), True, f'label of counter {counter}: {label}')
    return dict(registration=counter, owner=-1)


def check_typed_counter(counter, kind, label, record):
    """Returns the registration id that key and label agree on, where there is one."""
    key = record[16:128]
    if kind in STREAM_NAMES:
        registration, session, stream = i64(key, 0), i32(key, 8), i32(key, 12)
        channel = text(key, 16, f'channel of counter {counter}')
        name, rest = label.split(': ', 1)
        eq(name.startswith(STREAM_NAMES[kind]), True, f'name of counter {counter}: {label}')
        fields = rest.split(' ')
        eq([int(field) for field in fields[:3]], [registration, session, stream], f'label of counter {counter}')
        eq(fields[3].startswith(channel), True, f'channel of counter {counter}: {label}')
        eq(rest.count(' @'), int(kind == 4), f'join position of counter {counter}: {label}')
        return dict(registration=registration)
    if kind in CHANNEL_NAMES:
        channel = text(key, 0, f'channel of counter {counter}')
        eq(label.startswith(f'{CHANNEL_NAMES[kind]}: {channel}'), True, f'label of counter {counter}: {label}')
        return {}
    if kind == 14:
        status, length = i32(key, 0), i32(key, 4)
        address = key[8:8 + length].decode('ascii')
        eq(label.split(': ', 1)[1], f'{status} {address}', f'label of counter {counter}')
        return {}
    if kind == 11:
        client = i64(key, 0)
        eq(label.startswith(f'client-heartbeat: id={client}'), True, f'label of counter {counter}: {label}')
        return dict(registration=client, owner=client)
    return {}


def check_counters(metadata, values):
    eq(len(metadata), 4 * len(values), 'lengths of the counter buffers')
    kinds = {}
    for counter in range(len(values) // VALUE_RECORD):
        record = metadata[METADATA_RECORD * counter:METADATA_RECORD * (counter + 1)]
        value = values[VALUE_RECORD * counter:VALUE_RECORD * (counter + 1)]
        state = i32(record, 0)
        if state == 0:
            eq(any(metadata[METADATA_RECORD * counter:]), False, 'bytes behind the last counter')
            break
        if state == -1:
            eq(any(record[16:128]), False, f'key of the freed counter {counter}')
            eq(0 < i64(record, 8) < MAX_I64, True, f'reuse deadline of counter {counter}')
            continue
        eq(state, 1, f'state of counter {counter}')
        eq(i64(record, 8), MAX_I64, f'reuse deadline of counter {counter}')
        eq(any(value[32:]), False, f'unused bytes of counter {counter}')
        kind, label = i32(record, 4), text(record, 128, f'label of counter {counter}')
        if counter < len(SYSTEM_LABELS):
            eq(kind, 0, f'type of counter {counter}')
            expected = check_system_counter(counter, label, record)
        else:
            expected = check_typed_counter(counter, kind, label, record)
            kinds[kind] = kinds.get(kind, 0) + 1
        for field, at in (('registration', 8), ('owner', 16)):
            if field in expected:
                eq(i64(value, at), expected[field], f'{field} id of counter {counter} ({label})')
    eq(i64(values, VALUE_RECORD * 34), 1 << 16 | 51 << 8, 'software version')
    eq(i64(values, VALUE_RECORD * 43), 1 << 16, 'control protocol version')
    return kinds


def check_error_log(data):
    at, errors = 0, []
    while at < len(data) and i32(data, at) != 0:
        length, count = i32(data, at), i32(data, at + 4)
        eq(24 < length <= len(data) - at, True, f'length of the error at {at}')
        eq(count >= 1 and i64(data, at + 16) <= i64(data, at + 8), True, f'observations of the error at {at}')
        errors.append(data[at + 24:at + length].decode('utf-8'))
        at += aligned(length, 8)
    eq(any(data[at:]), False, 'bytes behind the last error')
    return errors


def check_loss_report(path):
    data = open(path, 'rb').read()
    at, entries = 0, 0
    while i64(data, at) != 0:
        eq(i64(data, at + 8) > 0 and i64(data, at + 16) <= i64(data, at + 24), True, f'loss entry at {at}')
        channel = text(data, at + 40, 'channel of a loss')
        source_at = at + 40 + aligned(4 + len(channel), 4)
        source = text(data, source_at, 'source of a loss')
        at = aligned(source_at + 4 + len(source), 64)
        entries += 1
    eq(any(data[at:]), False, 'bytes behind the last loss')
    return entries


def check_frames(data, partition, term_length, session, initial_term):
    """Frames of one term from its begin to the first that is not there; cleaned parts are zero."""
    at = begin = partition * term_length
    frames = 0
    while at < begin + term_length and i32(data, at) > 0:
        kind, offset = struct.unpack_from('<H', data, at + 6)[0], i32(data, at + 8)
        eq(kind in (0, 1), True, f'kind of the frame at {at}')
        eq(offset, at - begin, f'offset of the frame at {at}')
        eq(i32(data, at + 12), session, f'session of the frame at {at}')
        eq(((i32(data, at + 20) - initial_term) & 0xFFFFFFFF) % 3, partition, f'term of the frame at {at}')
        at += aligned(i32(data, at), 32)
        frames += 1
    return frames


def check_log(path, kinds):
    data = open(path, 'rb').read()
    meta = data[-LOG_METADATA:]
    term = i32(meta, 276)
    eq(len(data), aligned(3 * term + LOG_METADATA, i32(meta, 280)), f'length of {path}')
    eq(i64(meta, 256), int(os.path.basename(path).split('.')[0]), f'registration id in {path}')
    eq(i32(meta, 268), 32, f'header length in {path}')
    initial, count, kind = i32(meta, 264), i32(meta, 24), meta[497]
    eq(kind in kinds, True, f'type of {path}')
    header = meta[320:352]
    eq(struct.unpack_from('<H', header, 6)[0], 1, f'default header of {path}')
    eq(any(meta[352:448]) or any(meta[508:]) or any(meta[28:128]), False, f'unused metadata of {path}')
    if kind != 2:
        tail = i64(meta, 8 * (count % 3))
        eq(((tail >> 32) - initial) & 0xFFFFFFFF, count, f'term of the tail in {path}')
        eq(i32(meta, 136), 1, f'{path} is connected')
    session = i32(header, 12)
    return sum(check_frames(data, partition, term, session, initial) for partition in range(3))


def main():
    directory = sys.argv[1]
    cnc = open(os.path.join(directory, 'cnc.dat'), 'rb').read()
    eq(i32(cnc, 0), 512, 'version')
    lengths = [i32(cnc, 4 + 4 * section) for section in range(5)]
    eq(len(cnc), aligned(128 + sum(lengths), i32(cnc, 48)), 'length of the file')
    eq(any(cnc[52:128]), False, 'unused bytes of the header')
    eq(os.path.exists(f'/proc/{i64(cnc, 40)}'), True, 'pid of the driver')
    eq(i64(cnc, 24) > 0, True, 'client liveness timeout')
    sections, at = [], 128
    for length in lengths:
        sections.append(cnc[at:at + length])
        at += length
    now_ms = int(time.time() * 1000)
    summary = {
        'next_correlation_id': check_to_driver(sections[0], now_ms),
        'events': check_to_clients(sections[1]),
        'counters': check_counters(sections[2], sections[3]),
        'errors': check_error_log(sections[4]),
        'losses': check_loss_report(os.path.join(directory, 'loss-report.dat')),
        'publication_frames': [
            check_log(path, (0, 1)) for path in sorted(glob.glob(os.path.join(directory, 'publications', '*')))],
        'image_frames': [
            check_log(path, (2,)) for path in sorted(glob.glob(os.path.join(directory, 'images', '*')))],
        'checks': checks,
    }
    print(json.dumps(summary))


main()
