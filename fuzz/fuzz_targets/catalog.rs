//! Catalogs, with and without checksums (spec 03 §3).
#![no_main]

use harrier_archive::Checksum;
use harrier_archive::catalog::Catalog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(salvaged) = Catalog::salvage(bytes, None) {
        let catalog = salvaged.catalog;
        let ids: Vec<i64> = catalog.entries().iter().map(|entry| entry.descriptor.recording_id).collect();
        assert!(ids.is_sorted());
        for write in salvaged.writes {
            assert!(write.offset as usize + write.bytes.len() <= bytes.len());
        }
    }
    for checksum in [None, Some(Checksum::Crc32c)] {
        let Ok(catalog) = Catalog::read(bytes, checksum) else { continue };
        for entry in catalog.entries() {
            assert!(entry.offset + entry.length <= bytes.len());
            let _right = catalog.is_checksum_right(entry);
            let _descriptor = catalog.get(entry.descriptor.recording_id);
        }
    }
});
