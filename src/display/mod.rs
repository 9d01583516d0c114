//! What people are shown: text that is harmless to a terminal, and tables of it. Pure, but for the look at standard output.

pub(crate) mod table;
pub(crate) mod text;
