//! Horizontal bars, as an SVG image.

use crate::table::number;

const WIDTH: usize = 860;
const LABELS: usize = 280;
const BARS: usize = 470;
const LINE: usize = 28;
const HEAD: usize = 52;

/// Draws one bar per entry: name, rate per second, and whether it is a floor, which has another color.
pub fn bars(title: &str, bars: &[(&str, f64, bool)]) -> String {
    let most = bars.iter().map(|(_, value, _)| *value).fold(1.0, f64::max);
    let height = HEAD + bars.len() * LINE + 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1f2933\">\n\
         <title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"30\" font-size=\"16\" font-weight=\"600\">{title}</text>\n",
        title = escaped(title)
    );
    for (index, (name, value, floor)) in bars.iter().enumerate() {
        let (top, color) = (HEAD + index * LINE, if *floor { "#9aa5b1" } else { "#2f6fbd" });
        let length = (value / most * BARS as f64).max(1.0);
        let (middle, end) = (top + 15, LABELS as f64 + length + 6.0);
        svg += &format!(
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{length:.1}\" height=\"20\" rx=\"2\" fill=\"{color}\"/>\n\
             <text x=\"{end:.1}\" y=\"{middle}\">{}/s</text>\n",
            LABELS - 8,
            escaped(name),
            number(*value, 0)
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
