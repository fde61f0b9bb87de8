//! What a user of these settings should hear before a run: options that take no part in it or change others, and pixels too large for the
//! first weights.

use super::Settings;
use super::choices::{Augmentation, InitKind, OptimizerKind, ScheduleKind};
use crate::models::{Init, Layer, LayerKind, Model};

/// Pixels above this and He's first weights, which expect about 1, give a first loss in the hundreds and worse.
const LARGE_PIXELS: f64 = 8.0;

/// Warnings, one to a line. `options` are those that the user gave by hand.
pub fn advice(options: &toml::Table, settings: &Settings, model: &Model) -> Vec<String> {
    let idle = without_effect(settings, model).into_iter().filter(|(key, ..)| options.contains_key(*key));
    let idle = idle.filter_map(|(key, of)| {
        let option = key.replace('_', "-");
        of.map(|of| format!("--{option} has no effect here: it is for {of}"))
    });
    let told = idle.chain(gave_way(options, settings));
    told.chain(large_pixels(settings, model)).chain(random_for_ever(settings, model)).collect()
}

/// Values of the preset that another option excludes.
fn gave_way(options: &toml::Table, settings: &Settings) -> Vec<String> {
    let (preset, Ok(settings)) = (settings.preset.table(), settings.table()) else { return Vec::new() };
    let pairs = [("bias_init", "init"), ("mean", "mean_image"), ("nesterov", "paper_sgd"), ("paper_sgd", "nesterov")];
    let changed = pairs.into_iter().filter(|(by, key)| {
        options.contains_key(*by) && !options.contains_key(*key) && preset.get(*key) != settings.get(*key)
    });
    let told = changed.filter_map(|(by, key)| {
        let [by, option] = [by, key].map(|key| key.replace('_', "-"));
        Some(format!("with --{by}, --{option} is {} and not the preset's {}", settings.get(key)?, preset.get(key)?))
    });
    told.collect()
}

/// Layers that are frozen before they have learnt anything.
fn random_for_ever(settings: &Settings, model: &Model) -> Option<String> {
    let is_random = |layer: &&Layer| !matches!(layer.kind, LayerKind::BatchNorm { .. });
    let frozen = model.layers.iter().filter(|layer| layer.scales.lr_scale == 0.0).filter(is_random);
    let names: Vec<&str> = frozen.map(|layer| layer.name.as_str()).collect();
    (settings.pretrained.is_none() && !names.is_empty()).then(|| {
        let names = names.join(", ");
        format!("{names}: lr_scale = 0 keeps first weights, which are random: give --pretrained FILE, or take it away")
    })
}

/// Settings and, where nothing reads them, what they are for.
fn without_effect(settings: &Settings, model: &Model) -> Vec<(&'static str, Option<String>)> {
    let unless = |used: bool, what: &str| (!used).then(|| what.to_string());
    let sgd = || unless(settings.optimizer == OptimizerKind::Sgd, "--optimizer sgd");
    let adam = || unless(settings.optimizer != OptimizerKind::Sgd, "--optimizer adam and adamw");
    let schedule = |kinds: &[ScheduleKind], names: &str| {
        unless(kinds.contains(&settings.schedule), &format!("--schedule {names}"))
    };
    let drops = model.layers.iter().any(|layer| matches!(layer.kind, LayerKind::Dropout { .. }));
    let dropout = || unless(drops, &format!("models with a dropout layer, and {} has none", model.name));
    let dropped = || unless(settings.dropout != Some(0.0), "a --dropout above 0");
    use ScheduleKind::{Cosine, Plateau, Step};
    vec![
        ("momentum", sgd()),
        ("nesterov", sgd()),
        ("paper_sgd", sgd()),
        ("beta1", adam()),
        ("beta2", adam()),
        ("epsilon", adam()),
        ("decay_biases", unless(settings.weight_decay > 0.0, "a --weight-decay above 0")),
        ("min_lr", schedule(&[Cosine, Plateau], "cosine and plateau")),
        ("lr_factor", schedule(&[Step, Plateau], "step and plateau")),
        ("step_epochs", schedule(&[Step], "step")),
        ("lr_patience", schedule(&[Plateau], "plateau")),
        ("min_area", unless(settings.augment == Augmentation::Resized, "--augment resized")),
        ("mean", unless(!settings.mean_image, "--mean-image false")),
        ("dropout", dropout()),
        ("dropout_form", dropout().or_else(dropped)),
        (
            "split",
            unless(settings.val.is_none(), "folders without validation pictures of their own, and --val gives them"),
        ),
    ]
}

/// He's first weights keep the size of what a layer reads: from pixels of 0 to 255 to logits, and a loss, of hundreds.
fn large_pixels(settings: &Settings, model: &Model) -> Option<String> {
    let farthest =
        |(mean, std): (f64, f64)| if settings.mean_image { 0.5 } else { mean.abs().max((1.0 - mean).abs()) } / std;
    let largest = settings.mean.into_iter().zip(settings.std).map(farthest).fold(0.0, f64::max);
    let mut first = model.layers.iter().filter_map(|layer| match layer.kind {
        LayerKind::Conv2d { init, .. } | LayerKind::Linear { init, .. } => Some(init.unwrap_or(model.init)),
        _ => None,
    });
    let he = match settings.init {
        InitKind::Model => first.next() == Some(Init::He),
        InitKind::He => true,
        InitKind::Pytorch => false,
    };
    let normalised = model.layers.iter().any(|layer| matches!(layer.kind, LayerKind::BatchNorm { .. }));
    let fresh = settings.pretrained.is_none();
    (fresh && he && !normalised && largest > LARGE_PIXELS).then(|| {
        format!(
            "{} begins with He's weights, which are for pixels of about 1, and gets pixels of up to {largest:.0}: the loss may grow \
             without bound. Give --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, or a model file with init = {{ normal = 0.01 }}",
            model.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &str, model: &str) -> Vec<String> {
        let options: toml::Table = options.parse().unwrap();
        let settings = Settings::merge([options.clone()]).unwrap();
        advice(&options, &settings, &Model::find(model).unwrap())
    }

    #[test]
    fn options_without_effect_are_told() {
        for (options, model, expected) in [
            ("momentum = 0.5", "alexnet-bn", "--momentum has no effect here: it is for --optimizer sgd"),
            ("preset = 'paper'\nbeta1 = 0.5", "alexnet", "--beta1 has no effect here: it is for --optimizer adam and"),
            ("lr_patience = 3", "alexnet-bn", "--lr-patience has no effect here: it is for --schedule plateau"),
            ("min_area = 0.5\naugment = 'off'", "alexnet-bn", "--min-area has no effect here: it is for --augment res"),
            ("mean_image = true\nmean = [0.5, 0.5, 0.5]", "alexnet-bn", "--mean has no effect here"),
            (
                "dropout = 0\ndropout_form = 'paper'",
                "alexnet",
                "--dropout-form has no effect here: it is for a --dropout",
            ),
            ("val = 'v'\nsplit = 0.5", "alexnet", "--split has no effect here"),
            (
                "dropout = 0.3",
                "resnet18",
                "--dropout has no effect here: it is for models with a dropout layer, and res",
            ),
        ] {
            let told = told(options, model);
            assert!(told.len() == 1 && told[0].starts_with(expected), "{options}: {told:?}");
        }
        assert_eq!(told("momentum = 0.5\noptimizer = 'sgd'\nmin_area = 0.5\ndropout = 0.3", "alexnet-bn"), [""; 0]);
    }

    #[test]
    fn what_gives_way_is_told() {
        for (options, expected) in [
            ("bias_init = 0.1", "with --bias-init, --init is \"model\" and not the preset's \"he\""),
            (
                "preset = 'paper'\nmean = [0.5, 0.5, 0.5]",
                "with --mean, --mean-image is false and not the preset's true",
            ),
            ("preset = 'paper'\nnesterov = true", "with --nesterov, --paper-sgd is false and not the preset's true"),
        ] {
            assert_eq!(told(options, "alexnet"), [expected]);
        }
        assert_eq!(told("preset = 'paper'\nbias_init = 0.1", "alexnet"), [""; 0]);
    }

    #[test]
    fn layers_that_stay_random_are_told() {
        let text = "layers = [\"flatten\", { kind = \"linear\", out = 3, lr_scale = 0 }, { kind = \"linear\", out = \"classes\" }]";
        let model = Model::parse(text, "m").unwrap();
        let settings = |options: &str| Settings::merge([options.parse().unwrap()]).unwrap();
        let told = advice(&Default::default(), &settings("epochs = 3"), &model);
        assert!(told.len() == 1 && told[0].starts_with("fc1: lr_scale = 0"), "{told:?}");
        let pretrained = settings("pretrained = 'weights.safetensors'");
        assert_eq!(advice(&Default::default(), &pretrained, &model), [""; 0]);
    }

    #[test]
    fn pixels_too_large_for_hes_weights_are_told() {
        assert!(told("preset = 'paper'", "vgg11")[0].contains("gets pixels of up to 128"));
        assert!(told("preset = 'paper'\ninit = 'he'", "alexnet")[0].starts_with("alexnet begins with He's weights"));
        for (options, model) in [
            ("preset = 'paper'", "alexnet"),
            ("preset = 'paper'", "resnet18"),
            ("preset = 'paper'\nmean_image = false\nmean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]", "vgg11"),
            ("preset = 'paper'\npretrained = 'weights.safetensors'", "vgg11"),
            ("epochs = 3", "vgg11"),
        ] {
            assert_eq!(told(options, model), [""; 0], "{options} {model}");
        }
    }
}
