#![no_main]
//! See `punchtunnel_fuzz`.

punchtunnel_fuzz::program!("names");
