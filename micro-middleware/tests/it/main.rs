//! Each promise of a layer, by its name.
