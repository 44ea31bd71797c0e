//! Writes the results and a description of the machine into a file of `docs`.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::fixture::Fixture;
use crate::bare;

pub const PERFORMANCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
pub const SCALING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scaling.md");
const PLOT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.svg");

/// Fails if a file lacks the lines that begin and end a section. Callers run this check before the measurement, so that no
/// results are lost.
pub fn check(file: &str, section: &str) -> Result<()> {
    split_around(file, section).map(drop)
}

/// Replaces the text of a section.
pub fn write(file: &str, section: &str, text: &str) -> Result<()> {
    let [before, after] = split_around(file, section)?;
    fs::write(file, format!("{before}\n{}\n\n{after}", text.trim_end()))?;
    println!("\nwritten to {file}");
    Ok(())
}

pub fn write_plot(svg: &str) -> Result<()> {
    Ok(fs::write(PLOT_FILE, svg)?)
}

/// Returns the text up to the line that begins a section, and the text from the line that ends it.
fn split_around(file: &str, section: &str) -> Result<[String; 2]> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let (begin, end) = (format!("<!-- {section}: begin -->\n"), format!("<!-- {section}: end -->"));
    let parts = || {
        let (before, rest) = text.split_once(&begin)?;
        Some([format!("{before}{begin}"), format!("{end}{}", rest.split_once(&end)?.1)])
    };
    parts().with_context(|| format!("{file} lacks the lines {} and {end}", begin.trim_end()))
}

/// Describes the date, the machine and the servers in one line.
pub async fn describe_environment(fixture: &Fixture) -> Result<String> {
    let redis = bare::describe(&mut bare::connect(fixture.redis_url()).await?).await?;
    Ok(format!("{}; {}, fsync off; {redis}", describe_machine()?, fixture.postgres_version().await?))
}

/// Describes the date and the machine.
pub fn describe_machine() -> Result<String> {
    Ok(format!(
        "{}; {} cores, {}, shared by clients and servers",
        chrono::Utc::now().format("%Y-%m-%d"),
        std::thread::available_parallelism()?,
        processor_name()
    ))
}

fn processor_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let asked = || {
        let output = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let model = model.map(|(_, name)| name.trim().to_owned()).or_else(asked);
    model.unwrap_or_else(|| format!("unknown {} processor", std::env::consts::ARCH))
}
