//! Presets: tables of defaults in `presets/*.toml`, which the options of a run override.

/// A recipe: the defaults of every training option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// What trains best on a small folder of pictures today
    #[default]
    Modern,
    /// The recipe of the 2012 paper
    Paper,
    /// The PyTorch tutorial's program, its faults mended
    Tutorial,
}

impl Preset {
    /// All presets, the default first.
    pub const ALL: [Preset; 3] = [Preset::Modern, Preset::Paper, Preset::Tutorial];

    /// As given to `--preset`.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Modern => "modern",
            Preset::Paper => "paper",
            Preset::Tutorial => "tutorial",
        }
    }

    /// The preset's settings by name.
    pub fn table(self) -> toml::Table {
        let text = match self {
            Preset::Modern => include_str!("presets/modern.toml"),
            Preset::Paper => include_str!("presets/paper.toml"),
            Preset::Tutorial => include_str!("presets/tutorial.toml"),
        };
        let mut table: toml::Table = text.parse().expect("the tests read every preset");
        table.insert("preset".into(), self.name().into());
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Settings;

    #[test]
    fn every_preset_is_a_complete_and_valid_configuration() {
        for preset in Preset::ALL {
            let settings = Settings::merge([preset.table()]).unwrap();
            assert_eq!(settings.preset, preset);
            settings.check().unwrap();
        }
    }
}
