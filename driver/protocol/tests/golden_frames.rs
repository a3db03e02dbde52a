//! UDP frames are compared with datagrams of the released drivers (spec 02 §9), and invalid datagrams are refused
//! (spec 02 §8).

use std::path::Path;

use harrier_protocol::resolution::{ResolutionEntry, ResolutionWriter};
use harrier_protocol::udp::{
    DataHeader, ErrorFrame, Frame, FrameError, Nak, Setup, StatusMessage, flag, frame_type,
};
use proptest::prelude::*;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/udp").join(name)).unwrap()
}

/// Encodes a decoded frame again.
fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut buffer = vec![0xEE; 2048];
    let length = match frame {
        Frame::Data(data) => {
            buffer[..data.bytes.len()].copy_from_slice(data.bytes);
            data.first.encode(&mut buffer).unwrap();
            data.bytes.len()
        }
        Frame::Setup(frame) => frame.encode(&mut buffer).unwrap(),
        Frame::Nak(frame) => frame.encode(&mut buffer).unwrap(),
        Frame::StatusMessage(frame) => frame.encode(&mut buffer).unwrap(),
        Frame::Error(frame) => frame.encode(&mut buffer).unwrap(),
        Frame::Rttm(frame) => frame.encode(&mut buffer).unwrap(),
        Frame::ResponseSetup(frame) => frame.encode(&mut buffer).unwrap(),
        Frame::Resolution(frame) => {
            let mut writer = ResolutionWriter::new(&mut buffer).unwrap();
            frame.entries().for_each(|entry| writer.push(&entry).unwrap());
            writer.finish()
        }
        Frame::Ignored(_) => panic!("a golden frame was ignored"),
    };
    buffer.truncate(length);
    buffer
}

#[test]
fn every_golden_datagram_is_decoded_and_encoded_byte_for_byte() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/udp");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let bytes = golden(&name);
        let frame = Frame::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut ours = encode(&frame);
        match frame {
            // Without the flag the Java driver does not write the tag (spec 02 §1.6).
            Frame::Error(ErrorFrame { group_tag: None, .. }) => ours[24..32].copy_from_slice(&bytes[24..32]),
            // Filler after names is stale (spec 02 §1.9).
            Frame::Resolution(_) => {
                let names = frame_names(&frame);
                assert_eq!(ours.len(), bytes.len(), "{name}");
                assert_eq!(names, frame_names(&Frame::decode(&ours).unwrap()), "{name}");
                count += 1;
                continue;
            }
            _ => {}
        }
        assert_eq!(ours, bytes, "{name}");
        count += 1;
    }
    assert_eq!(count, 52);
}

fn frame_names(frame: &Frame<'_>) -> Vec<(bool, String, String)> {
    let Frame::Resolution(frame) = frame else { panic!("no resolution frame") };
    frame.entries().map(|entry| (entry.is_self, entry.address.to_string(), entry.name.to_owned())).collect()
}

#[test]
fn golden_values_are_read() {
    for driver in ["java", "c"] {
        let bytes = golden(&format!("{driver}-01-setup.bin"));
        let Frame::Setup(setup) = Frame::decode(&bytes).unwrap() else { panic!("no SETUP") };
        assert_eq!((setup.session_id, setup.stream_id, setup.initial_term_id), (0x0102_0304, 1001, 7));
        assert_eq!((setup.term_length, setup.mtu), (65536, 1408));
        setup.validate().unwrap();

        let bytes = golden(&format!("{driver}-16-sm-gtag.bin"));
        let Frame::StatusMessage(message) = Frame::decode(&bytes).unwrap() else { panic!("no SM") };
        assert_eq!(message.group_tag, Some(-7));
        assert!(message.fits_stream(7, 65536) && !message.fits_stream(8, 65536));

        let bytes = golden(&format!("{driver}-17-err-gtag.bin"));
        let Frame::Error(error) = Frame::decode(&bytes).unwrap() else { panic!("no ERR") };
        assert_eq!((error.group_tag, error.code), (Some(-7), 13));

        let bytes = golden(&format!("{driver}-09-pad.bin"));
        let Frame::Data(pad) = Frame::decode(&bytes).unwrap() else { panic!("no PAD") };
        assert_eq!((pad.first.frame_type, pad.first.frame_length), (frame_type::PAD, 288));
        assert!(pad.fits_term(65536) && !pad.fits_term(65536 - 32));

        let bytes = golden(&format!("{driver}-19-heartbeat-revoked.bin"));
        let Frame::Data(beat) = Frame::decode(&bytes).unwrap() else { panic!("no heartbeat") };
        assert!(beat.is_heartbeat());
        let first = beat.first;
        let flags = flag::EOS | flag::REVOKED;
        let ours =
            DataHeader::heartbeat(first.session_id, first.stream_id, first.term_id, first.term_offset, flags);
        assert_eq!(ours, first);

        let bytes = golden(&format!("{driver}-26-res-neighbors.bin"));
        assert_eq!(frame_names(&Frame::decode(&bytes).unwrap()).len(), 2);
    }
}

#[test]
fn crafted_datagrams_are_refused() {
    assert!(matches!(Frame::decode(&[0; 4]), Err(FrameError::Short { .. })));
    let data = golden("java-08-data-two-frames.bin");
    let with = |offset: usize, bytes: &[u8]| {
        let mut copy = data.clone();
        copy[offset..offset + bytes.len()].copy_from_slice(bytes);
        copy
    };
    assert_eq!(Frame::decode(&with(4, &[1])), Err(FrameError::Version(1)));
    assert_eq!(Frame::decode(&with(6, &[0x77, 0])), Ok(Frame::Ignored(0x77)));
    for (what, bytes) in [
        ("shorter than a header", data[..16].to_vec()),
        ("cut second frame", data[..96].to_vec()),
        ("length beyond the datagram", with(0, &200_i32.to_le_bytes())),
        ("negative length", with(0, &(-64_i32).to_le_bytes())),
        ("length below the header", with(0, &31_i32.to_le_bytes())),
        ("heartbeat in company", with(64, &0_i32.to_le_bytes())),
        ("other session", with(64 + 12, &9_i32.to_le_bytes())),
        ("other stream", with(64 + 16, &9_i32.to_le_bytes())),
        ("other term", with(64 + 20, &9_i32.to_le_bytes())),
        ("gap", with(64 + 8, &4096_i32.to_le_bytes())),
        ("negative offset", with(8, &(-32_i32).to_le_bytes())),
        ("unaligned offset", with(8, &8_i32.to_le_bytes())),
        ("control frame inside", with(64 + 6, &[5, 0])),
        ("padding that is not last", with(6, &[0, 0])),
        ("huge length", with(64, &i32::MAX.to_le_bytes())),
    ] {
        assert!(Frame::decode(&bytes).is_err(), "{what}");
    }

    let nak = golden("java-12-nak.bin");
    assert!(Frame::decode(&nak[..20]).is_err());
    let mut long = nak.clone();
    long[..4].copy_from_slice(&1000_i32.to_le_bytes());
    assert!(matches!(Frame::decode(&long), Err(FrameError::FrameLength { .. })));

    let setup = golden("java-01-setup.bin");
    let Frame::Setup(good) = Frame::decode(&setup).unwrap() else { panic!("no SETUP") };
    for bad in [
        Setup { mtu: 1407, ..good },
        Setup { mtu: 32, ..good },
        Setup { mtu: 65536, ..good },
        Setup { term_length: 1000, ..good },
        Setup { term_length: i32::MIN, ..good },
        Setup { active_term_id: good.initial_term_id.wrapping_sub(1), ..good },
        Setup { term_offset: 65536 + 32, ..good },
        Setup { term_offset: 7, ..good },
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }

    let res = golden("java-25-res-self.bin");
    for (offset, value) in [(8, 9_u8), (20, 0), (20, 200), (10, 0)] {
        let mut copy = res.clone();
        copy[offset] = value;
        if offset == 10 {
            copy[11] = 0;
        }
        assert!(Frame::decode(&copy).is_err(), "byte {offset} = {value}");
    }
}

proptest! {
    #[test]
    fn arbitrary_datagrams_never_panic(kind in 0..16_u16, length in 0..400_i32, mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Frame::decode(&bytes);
        if bytes.len() >= 8 {
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4] = 0;
            bytes[6..8].copy_from_slice(&kind.to_le_bytes());
            match Frame::decode(&bytes) {
                Ok(Frame::Data(data)) => { let _ = data.fits_term(65536); }
                Ok(Frame::Setup(setup)) => { let _ = setup.validate(); }
                Ok(Frame::Resolution(frame)) => { let _ = frame.entries().count(); }
                _ => {}
            }
        }
    }

    #[test]
    fn control_frames_come_back(words in any::<[i32; 5]>(), receiver_id in any::<i64>(), group_tag in any::<Option<i64>>(), text in "[ -~]{0,60}") {
        let nak = Nak { session_id: words[0], stream_id: words[1], term_id: words[2], term_offset: words[3], length: words[4] };
        let message = StatusMessage {
            flags: 0, session_id: words[0], stream_id: words[1], consumption_term_id: words[2],
            consumption_term_offset: words[3] & 0x3FFF_FFE0, receiver_window: words[4] & i32::MAX, receiver_id, group_tag,
        };
        let error = ErrorFrame { session_id: words[0], stream_id: words[1], receiver_id, group_tag, code: words[2], text: text.as_bytes() };
        for frame in [Frame::Nak(nak), Frame::StatusMessage(message), Frame::Error(error)] {
            let bytes = encode(&frame);
            prop_assert_eq!(Frame::decode(&bytes).unwrap(), frame);
        }
    }

    #[test]
    fn resolution_entries_come_back(address in any::<[u8; 16]>(), port in 1..=u16::MAX, age_ms in any::<i32>(), name in "[a-z0-9.-]{1,255}", is_self in any::<bool>()) {
        let mut buffer = [0; 400];
        let entry = ResolutionEntry { is_self, address: (address, port).into(), age_ms, name: &name };
        let mut writer = ResolutionWriter::new(&mut buffer).unwrap();
        writer.push(&entry).unwrap();
        let length = writer.finish();
        let Frame::Resolution(frame) = Frame::decode(&buffer[..length]).unwrap() else { panic!("no RES") };
        prop_assert_eq!(frame.entries().collect::<Vec<_>>(), [entry]);
    }
}
