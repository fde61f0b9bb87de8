// Compilers may assume that there is no NaN and drop a comparison that finds it; bits they leave alone.

fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

// `result`, or NaN where `x` is NaN.
fn keep_nan(result: vec4f, x: vec4f) -> vec4f {
    return select(result, x, (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// The built-in functions need not keep NaN either.
fn nan_exp(x: f32) -> f32 {
    return select(exp(x), x, is_nan(x));
}

fn nan_log(x: f32) -> f32 {
    return select(log(x), x, is_nan(x));
}
