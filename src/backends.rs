//! URL → adapter: which backend serves a port is chosen at run time, among those compiled in.
