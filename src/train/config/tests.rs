//! What settings make of a preset, files and options, and which they refuse.

use super::*;

fn table(text: &str) -> toml::Table {
    text.parse().unwrap()
}

#[test]
fn options_override_the_file_which_overrides_the_preset() {
    let file = table("preset = 'paper'\nlr = 0.5\nepochs = 7");
    let options = table("lr = 0.25");
    let settings = Settings::merge([file, options]).unwrap();
    assert_eq!((settings.preset, settings.lr, settings.epochs, settings.batch_size), (Preset::Paper, 0.25, 7, 128));
}

#[test]
fn other_devices_divide_anew() {
    let parallel =
        |text: &str| Settings::merge([table("adapter = 'cpu,cpu'\nparallel = 'data'"), table(text)]).unwrap().parallel;
    assert_eq!(parallel("lr = 0.25"), Some(ParallelKind::Data));
    assert_eq!(parallel("adapter = 'cpu'"), None);
    assert_eq!(parallel("adapter = '0,1'\nparallel = 'model'"), Some(ParallelKind::Model));
}

#[test]
fn config_round_trips() {
    let mut settings = Settings::merge([table("dir = 'pictures'\nlr = 0.1\nmax_steps = 5")]).unwrap();
    settings.beta2 = 0.1 + 0.2;
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(Settings::merge([table(&text)]).unwrap(), settings);
}

#[test]
fn unknown_keys_and_wrong_types_are_named() {
    let unknown = Settings::merge([table("learning_rate = 1")]).unwrap_err().to_string();
    assert!(unknown.contains("learning_rate") && !unknown.contains('\n'), "{unknown}");
    assert!(Settings::merge([table("epochs = 'many'")]).is_err());
    assert!(Settings::merge([table("preset = 'best'")]).is_err());
}

/// A scheme that replaces the model's first weights replaces its biases too.
#[test]
fn first_biases_are_of_the_models_own_scheme() {
    let settings = |text: &str| Settings::merge([table(text)]).unwrap();
    assert_eq!(settings("bias_init = 0.1").init, InitKind::Model);
    settings("bias_init = 0.1").check().unwrap();
    assert!(settings("bias_init = 0.1\ninit = 'he'").check().unwrap_err().to_string().contains("--init model"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    let bad = [
        "lr = nan",
        "lr = -1.0",
        "lr = inf",
        "lr = 1e40",
        "batch_size = 0",
        "split = 1.5",
        "split = 0.0",
        "epochs = 0",
        "dropout = 1.0",
        "label_smoothing = 1.0",
        "std = [1.0, 0.0, 1.0]",
        "min_area = 0.0",
        "workers = 0",
        "max_steps = 0",
        "image_size = 0",
        "weight_decay = -0.1",
        "min_lr = 1.0",
        "momentum = 1.0",
        // In range only as an f64.
        "lr = 1e-46",
        "epsilon = 1e-46",
        "beta1 = 0.99999999999",
        "label_smoothing = 0.9999999999",
        "step_epochs = 1e308",
        "epochs = 4294967296",
    ];
    for text in bad {
        let settings = Settings::merge([table(text)]).unwrap();
        let message = settings.check().expect_err(text).to_string();
        let option = format!("--{} must be ", text.split(' ').next().unwrap().replace('_', "-"));
        assert!(message.starts_with(&option), "{text}: {message}");
        if !text.contains('[') {
            let (_, given) = text.split_once(" = ").unwrap();
            let got = format!("got {}", given.replace("nan", "NaN"));
            assert!(message.contains(&got), "{text}: {message}");
        }
    }
}

#[test]
fn what_a_preset_says_gives_way_to_what_excludes_it() {
    for text in [
        "preset = 'paper'\nlr = 1e-6",
        "optimizer = 'sgd'\npaper_sgd = true",
        "optimizer = 'sgd'\nmomentum = 0",
        "preset = 'paper'\nnesterov = true",
    ] {
        let settings = Settings::merge([table(text)]).unwrap();
        settings.check().unwrap();
        crate::models::OptimizerConfig::from(&settings).validate().unwrap();
    }
    let least = |text: &str| Settings::merge([table(text)]).unwrap().min_lr;
    // A thousandth of the rate, which three drops reach, as the paper's.
    assert!(Settings::merge([table("schedule = 'plateau'\nlr_patience = 0")]).unwrap().check().is_err());
    for (given, expected) in
        [("lr = 1e-6", 1e-9), ("lr = 1", 1e-3), ("epochs = 3", 1e-5), ("lr = 1\nmin_lr = 0.5", 0.5)]
    {
        let least = least(&format!("preset = 'paper'\n{given}"));
        assert!((least / expected - 1.0).abs() < 1e-12, "{given}: {least}");
    }
    // A run's own file says everything, but what was not chosen gives way to an option as the preset's does.
    for (run, option, key) in [
        ("preset = 'paper'\nlr = 0.001", "lr = 1e-6", "min_lr"),
        ("preset = 'paper'", "mean = [0.5, 0.5, 0.5]", "mean_image"),
        ("preset = 'paper'", "nesterov = true", "paper_sgd"),
        ("optimizer = 'sgd'", "momentum = 0", "nesterov"),
        ("epochs = 3", "model = 'net.toml'", "init"),
        ("model = 'net.toml'", "model = 'alexnet'", "init"),
        ("preset = 'paper'\nlr = 0.001\nmin_lr = 1e-4", "lr = 0.01", "min_lr"),
        ("preset = 'paper'\nmean_image = true\nmean = [0.1, 0.1, 0.1]", "lr = 1", "mean_image"),
        ("init = 'pytorch'", "model = 'net.toml'", "init"),
    ] {
        let all = Settings::merge([table(run)]).unwrap().table().unwrap();
        let of = |layers: [toml::Table; 2]| Settings::merge(layers).unwrap().table().unwrap().remove(key);
        assert_eq!(of([all, table(option)]), of([table(run), table(option)]), "{run}, then {option}: {key}");
    }
    let init = |text: &str| Settings::merge([table(text)]).unwrap().init;
    assert_eq!(init("model = 'alexnet'"), InitKind::He);
    assert_eq!(init("model = 'mine/net.toml'"), InitKind::Model);
    assert_eq!(init("model = 'net.toml'\ninit = 'he'"), InitKind::He);
    for given in ["preset = 'paper'\nlr = 1e-6\nmin_lr = 1e-5", "paper_sgd = true\nnesterov = true"] {
        assert!(Settings::merge([table(given)]).unwrap().check().is_err(), "{given}");
    }
}

#[test]
fn differences_are_found() {
    let a = Settings::merge([table("lr = 0.1")]).unwrap();
    let b = Settings::merge([table("lr = 0.2\nepochs = 3")]).unwrap();
    assert_eq!(a.first_difference(&b, &["epochs"]).unwrap().as_deref(), Some("lr"));
    assert_eq!(a.first_difference(&b, &["epochs", "lr"]).unwrap(), None);
}
