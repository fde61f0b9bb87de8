// Philox4x32-10, the same as src/rng.rs: Salmon, Moraes, Dror, Shaw, SC'11.

// (low, high) 32 bits of the 64-bit product.
fn multiply_wide(a: u32, b: u32) -> vec2u {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let p01 = a0 * b1;
    let p10 = a1 * b0;
    let middle = ((a0 * b0) >> 16u) + (p01 & 0xffffu) + (p10 & 0xffffu);
    return vec2u(a * b, a1 * b1 + (p01 >> 16u) + (p10 >> 16u) + (middle >> 16u));
}

// Four random words: words 4 * block .. 4 * block + 4 of a stream. `counter` is a graph's random counter,
// [seed low, seed high, step, 0].
fn philox(counter: vec4u, stream: u32, block: u32) -> vec4u {
    var c = vec4u(block, stream, counter.z, 0u);
    var key = counter.xy;
    for (var round = 0u; round < 10u; round += 1u) {
        let p0 = multiply_wide(0xD2511F53u, c.x);
        let p1 = multiply_wide(0xCD9E8D57u, c.z);
        c = vec4u(p1.y ^ c.y ^ key.x, p1.x, p0.y ^ c.w ^ key.y, p0.x);
        key += vec2u(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}
