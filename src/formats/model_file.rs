//! Models by name or from files of their own.

use std::path::Path;

use super::text;
use crate::error::Result;
use crate::models::Model;

/// A model of the zoo, or the one in a file whose name ends in `.toml`.
///
/// # Errors
/// When there is no such model (the message lists the zoo) or file, or the file is not a model.
pub fn load_model(name_or_path: &str) -> Result<Model> {
    Model::parse(&model_text(name_or_path)?, name_or_path)
}

/// The text of such a model.
///
/// # Errors
/// When there is no such model or file.
pub fn model_text(name_or_path: &str) -> Result<String> {
    match is_model_file(name_or_path) {
        true => text::read(Path::new(name_or_path), "cannot read the model"),
        false => Model::file(name_or_path).map(String::from),
    }
}

/// Whether what is given for a model names a file: it ends in `.toml`.
pub fn is_model_file(name_or_path: &str) -> bool {
    Path::new(name_or_path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let model = Model::find("four-layer").unwrap();
        std::fs::write(&path, model.to_toml().unwrap()).unwrap();
        assert_eq!(load_model(path.to_str().unwrap()).unwrap(), model);
        assert_eq!(load_model("four-layer").unwrap(), model);
        assert!(is_model_file("MY.TOML") && !is_model_file("toml"));
        assert!(load_model("missing.toml").unwrap_err().to_string().contains("cannot read the model"));
        assert!(load_model("vgg").unwrap_err().to_string().contains("there is no model \"vgg\""));
    }
}
