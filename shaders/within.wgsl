// Number i, or for one beyond the end the last of `count`: it can be read, and what comes of it is not stored.
fn within(i: u32, count: u32) -> u32 {
    return min(i, count - 1);
}
