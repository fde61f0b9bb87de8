enable f16;

// The numbers that products multiply while they are in workgroup memory: 16-bit floats, half the traffic of 32-bit ones. Sums are
// 32-bit.
alias real = f16;

const LARGEST: f32 = 65504.0;

// Four terms of an operand as they are held, multiplied by `scale`: gradients are often smaller than the smallest 16-bit float. What
// is too large becomes the largest; infinity and NaN stay.
fn hold(terms: vec4f, scale: f32) -> vec4<real> {
    let scaled = terms * scale;
    let bounded = clamp(scaled, vec4f(-LARGEST), vec4f(LARGEST));
    return vec4<real>(select(scaled, bounded, abs(scaled) <= vec4f(3.4028234e38)));
}

// A sum of products of operands that were multiplied by these scales.
fn unscaled(sum: f32, a_scale: f32, b_scale: f32) -> f32 {
    return sum / (a_scale * b_scale);
}
