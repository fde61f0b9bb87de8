// Texel i of a texture that holds texels of four f32 row by row.
fn texel(i: u32) -> vec2u {
    return vec2u(i % 4096u, i / 4096u);
}
