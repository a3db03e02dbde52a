//! Follows spec 02 §3.4, §3.9 and spec 05 L1–L2, and
//! spec 03. Nothing follows spec 05, "Verbs", but
//! something "Words" (spec 05, "Words"). §3.4 belongs to nothing.
//! The guide is docs/guide.md, the page docs/page.md. Ranges: spec 05 L2–L9; (spec 02
//! §8).

mod reached;

mod limit;
mod long;
