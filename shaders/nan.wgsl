// `result`, or NaN where `x` is NaN. Compilers may assume that there is none and drop a comparison that finds it; bits they
// leave alone.
fn keep_nan(result: vec4f, x: vec4f) -> vec4f {
    return select(result, x, (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// The built-in functions need not keep NaN either.
fn nan_exp(x: f32) -> f32 {
    return keep_nan(vec4f(exp(x)), vec4f(x)).x;
}

fn nan_log(x: f32) -> f32 {
    return keep_nan(vec4f(log(x)), vec4f(x)).x;
}
