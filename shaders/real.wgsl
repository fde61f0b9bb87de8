// The numbers that products multiply while they are in workgroup memory: 32-bit floats here, 16-bit ones in real_f16.wgsl, which
// takes this file's place in the twin of each shader that includes it.
alias real = f32;

// Four terms of an operand as they are held, multiplied by `scale`; see real_f16.wgsl.
fn hold(terms: vec4f, scale: f32) -> vec4<real> {
    return terms;
}

// A sum of products of operands that were multiplied by these scales.
fn unscaled(sum: f32, a_scale: f32, b_scale: f32) -> f32 {
    return sum;
}
