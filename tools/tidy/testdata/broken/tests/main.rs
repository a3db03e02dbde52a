//! Reads `testdata/used` and one more file.

mod inner {
    #[path = "elsewhere.rs"]
    mod other;
}

const ONE: &str = "one.bin";
