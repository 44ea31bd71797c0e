//! Draws a chart of horizontal bars as an SVG image. The constants are in pixels.

use crate::table::number;

const WIDTH: usize = 860;
const LABEL_WIDTH: usize = 280;
const BAR_WIDTH: usize = 470;
const LINE_HEIGHT: usize = 28;
const TITLE_HEIGHT: usize = 52;

/// Draws one bar per entry: name, rate per second, and whether it is a baseline, which has another color.
pub fn draw_bars(title: &str, bars: &[(&str, f64, bool)]) -> String {
    let most = bars.iter().map(|(_, value, _)| *value).fold(1.0, f64::max);
    let height = TITLE_HEIGHT + bars.len() * LINE_HEIGHT + 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1f2933\">\n\
         <title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"30\" font-size=\"16\" font-weight=\"600\">{title}</text>\n",
        title = escape(title)
    );
    for (index, (name, value, baseline)) in bars.iter().enumerate() {
        let (top, color) =
            (TITLE_HEIGHT + index * LINE_HEIGHT, if *baseline { "#9aa5b1" } else { "#2f6fbd" });
        let length = (value / most * BAR_WIDTH as f64).max(1.0);
        let (middle, end) = (top + 15, LABEL_WIDTH as f64 + length + 6.0);
        svg += &format!(
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{length:.1}\" height=\"20\" rx=\"2\" fill=\"{color}\"/>\n\
             <text x=\"{end:.1}\" y=\"{middle}\">{}/s</text>\n",
            LABEL_WIDTH - 8,
            escape(name),
            number(*value, 0)
        );
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
