//! The operating system behind the engine's traits: sockets, files, maps, clocks.
