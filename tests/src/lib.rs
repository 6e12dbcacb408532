//! Harness for tests that drive the real binaries over loopback.
