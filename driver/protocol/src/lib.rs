//! Channel URIs, UDP frames, commands, events and the SBE cursor of the Aeron protocol.
#![forbid(unsafe_code)]
