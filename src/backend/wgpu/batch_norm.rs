//! Lowering of batch normalisation: sums over channels in two passes, what follows from them channel by channel, and one pass over
//! the elements.

use super::WgpuOp;
use super::bias::{Cut, column_sums, sum_channels};
use super::lowering::{Lowering, ValueRef};
use super::shaders::batch_norm::{BACKWARD, CHANNEL_SUMS, FACTORS, FORWARD, PLANE_SUMS, SLOPES, STATISTICS};
use super::shaders::elementwise::SCALE;
use crate::error::Result;
use crate::ops::{BatchNorm, BatchNormBackward, BatchNormInference, Operator};

impl WgpuOp for BatchNorm {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let [x, weight, bias] = inputs else { unreachable!("infer asks for three inputs") };
        let [y, mean, variance] = outputs else { unreachable!("infer says three outputs") };
        let channels = x.ty.shape[1];
        let [sums, products, factor] = [(); 3].map(|()| cx.scratch(channels));
        sum_channels(cx, self, x, &sums)?;
        cx.each(&SCALE, &[("a", &sums), ("y", mean)], |d, _| d.set("value", share(x)))?;
        product_sums(cx, self, x, None, mean, [&sums, &products])?;
        let [sums, products, whole_weight] = [cx.whole(&sums)?, cx.whole(&products)?, cx.whole(weight)?];
        let [whole_mean, whole_variance, whole_factor] = [cx.whole(mean)?, cx.whole(variance)?, cx.whole(&factor)?];
        cx.dispatch(&STATISTICS)
            .bind("channel_sum", sums)
            .bind("channel_product", products)
            .bind("weight", whole_weight)
            .bind("mean_out", whole_mean)
            .bind("variance", whole_variance)
            .bind("factor_out", whole_factor)
            .set("channels", channels as u32)
            .set("share", share(x))
            .set("epsilon", self.epsilon)
            .threads(channels)?;
        normalise(cx, x, [mean, &factor, bias], y)
    }
}

impl WgpuOp for BatchNormInference {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let [x, weight, bias, mean, variance] = inputs else { unreachable!("infer asks for five inputs") };
        let channels = x.ty.shape[1];
        let factor = cx.scratch(channels);
        let [weight, variance, whole_factor] = [cx.whole(weight)?, cx.whole(variance)?, cx.whole(&factor)?];
        cx.dispatch(&FACTORS)
            .bind("weight", weight)
            .bind("given_variance", variance)
            .bind("factor_out", whole_factor)
            .set("channels", channels as u32)
            .set("share", share(x))
            .set("epsilon", self.epsilon)
            .threads(channels)?;
        normalise(cx, x, [mean, &factor, bias], &outputs[0])
    }
}

impl WgpuOp for BatchNormBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let [x, weight, mean, variance, dy] = inputs else { unreachable!("infer asks for five inputs") };
        let [dx, dweight, dbias] = outputs else { unreachable!("infer says three outputs") };
        let channels = x.ty.shape[1];
        let [products, factor, slope] = [(); 3].map(|()| cx.scratch(channels));
        product_sums(cx, self, x, Some(dy), mean, [dbias, &products])?;
        let [products, weight, variance] = [cx.whole(&products)?, cx.whole(weight)?, cx.whole(variance)?];
        let [dweight, factor, slope] = [cx.whole(dweight)?, cx.whole(&factor)?, cx.whole(&slope)?];
        cx.dispatch(&SLOPES)
            .bind("channel_product", products)
            .bind("weight", weight)
            .bind("given_variance", variance)
            .bind("dweight", dweight)
            .bind("slope_out", slope)
            .bind("factor_out", factor)
            .set("channels", channels as u32)
            .set("share", share(x))
            .set("epsilon", self.epsilon)
            .threads(channels)?;
        let [mean, dbias] = [cx.whole(mean)?, cx.whole(dbias)?];
        cx.each(&BACKWARD, &[("x4", x), ("dy4", dy), ("out", dx)], |d, range| {
            d.bind("mean", mean)
                .bind("factor", factor)
                .bind("bias", dbias)
                .bind("slope", slope)
                .set("first", range.start as u32)
                .set("channels", channels as u32)
                .set("inner", inner(x) as u32)
                .set("share", share(x))
        })
    }
}

/// Elements of a channel in a picture.
fn inner(x: &ValueRef) -> usize {
    x.ty.shape[2..].iter().product()
}

/// 1 / elements of a channel.
fn share(x: &ValueRef) -> f32 {
    (x.ty.shape[1] as f64 / x.elements() as f64) as f32
}

/// y = (x - mean) * factor + bias, channel by channel.
fn normalise(cx: &mut Lowering, x: &ValueRef, vectors: [&ValueRef; 3], y: &ValueRef) -> Result<()> {
    let [mean, factor, bias] = [cx.whole(vectors[0])?, cx.whole(vectors[1])?, cx.whole(vectors[2])?];
    cx.each(&FORWARD, &[("x4", x), ("out", y)], |d, range| {
        d.bind("mean", mean)
            .bind("factor", factor)
            .bind("bias", bias)
            .set("first", range.start as u32)
            .set("channels", x.ty.shape[1] as u32)
            .set("inner", inner(x) as u32)
            .set("share", share(x))
    })
}

/// Of each channel the sums of v and of v * (x - mean), v being `g`, else x - mean.
fn product_sums(
    cx: &mut Lowering,
    op: &dyn Operator,
    x: &ValueRef,
    g: Option<&ValueRef>,
    mean: &ValueRef,
    [sums, products]: [&ValueRef; 2],
) -> Result<()> {
    let (n, channels, inner) = (x.ty.shape[0], x.ty.shape[1], inner(x));
    let cut = Cut::new(cx, op, x)?;
    let [partial_sums, partial_products] = [(); 2].map(|()| cx.scratch(cut.splits * channels));
    let mean = cx.whole(mean)?;
    let mut first = 0;
    for (range, pictures) in &cut.pieces {
        let splits = range.len().div_ceil(*pictures);
        let places = first * channels..(first + splits) * channels;
        let x_window = cx.row_window(x, n, range)?;
        let g_window = cx.row_window(g.unwrap_or(x), n, range)?;
        let (sums, products) = (cx.window(&partial_sums, places.clone())?, cx.window(&partial_products, places)?);
        // Both are scratch memory of one size, cut alike.
        assert_eq!(sums.first, products.first);
        cx.dispatch(if cut.sharing == 1 { &CHANNEL_SUMS } else { &PLANE_SUMS })
            .constant("CENTRED", g.is_none())
            .bind("x", x_window)
            .bind("g", g_window)
            .bind("mean", mean)
            .bind("sums", sums)
            .bind("products", products)
            .set("x_first", x_window.first)
            .set("g_first", g_window.first)
            .set("sums_first", sums.first)
            .set("rows", range.len() as u32)
            .set("rows_per_split", *pictures as u32)
            .set("splits", splits as u32)
            .set("channels", channels as u32)
            .set("inner", inner as u32)
            .groups(cut.groups(splits * channels))?;
        first += splits;
    }
    column_sums(cx, &partial_sums, cut.splits, channels, sums)?;
    column_sums(cx, &partial_products, cut.splits, channels, products)
}
