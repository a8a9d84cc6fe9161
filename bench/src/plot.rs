//! Bar charts as SVG: one bar per line of costs, its length the CPU seconds.

use std::fmt::Write as _;

/// Pixels.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 260.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 40.0;

/// A chart of named values.
pub fn bars(title: &str, unit: &str, values: &[(String, f64)]) -> String {
    let longest = values
        .iter()
        .map(|(_, v)| *v)
        .fold(f64::MIN_POSITIVE, f64::max);
    let height = HEAD + ROW * values.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for (i, (name, value)) in values.iter().enumerate() {
        let y = HEAD + ROW * i as f64;
        let bar = (WIDTH - LABELS - 90.0) * value / longest;
        let color = if name.contains("Tidemill") {
            "#1f77b4"
        } else {
            "#999999"
        };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><rect x=\"{LABELS}\" y=\"{y:.0}\" width=\"{bar:.1}\" \
             height=\"18\" fill=\"{color}\"/><text x=\"{:.0}\" y=\"{:.0}\">{value:.2} {unit}</text>",
            LABELS - 8.0,
            y + 14.0,
            escape(name),
            LABELS + bar + 6.0,
            y + 14.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_longest_bar_is_the_largest_value() {
        let svg = super::bars(
            "a < b",
            "s",
            &[("Tidemill".into(), 1.0), ("x & y".into(), 4.0)],
        );
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"));
        assert!(svg.contains("width=\"410.0\"") && svg.contains("width=\"102.5\""));
    }
}
