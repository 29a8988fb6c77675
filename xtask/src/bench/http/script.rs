//! Scripts for wrk, in Lua.

use super::shape::Shape;
use std::fmt::Write as _;

/// One request again and again costs wrk nothing; several are made beforehand and take turns.
pub(super) fn script(shapes: &[Shape]) -> String {
    if let [shape] = shapes {
        return alone(shape);
    }
    let mut text = String::from("local requests, at = {}, 0\nfunction init()\n");
    for shape in shapes {
        let headers: Vec<String> = shape
            .headers
            .iter()
            .map(|(name, value)| format!("[{name:?}] = {value:?}"))
            .collect();
        let _ = writeln!(
            text,
            "  requests[#requests + 1] = wrk.format({:?}, {:?}, {{{}}}, {})",
            shape.method(),
            shape.path,
            headers.join(", "),
            body(shape)
        );
    }
    text += "end\nfunction request()\n  at = at % #requests + 1\n  return requests[at]\nend\n";
    text
}

fn alone(shape: &Shape) -> String {
    let mut text = format!(
        "wrk.method = {:?}\nwrk.path = {:?}\nwrk.body = {}\n",
        shape.method(),
        shape.path,
        body(shape)
    );
    for (name, value) in &shape.headers {
        let _ = writeln!(text, "wrk.headers[{name:?}] = {value:?}");
    }
    text
}

fn body(shape: &Shape) -> String {
    match shape.body {
        0 => "nil".to_owned(),
        bytes => format!("string.rep(\"x\", {bytes})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_requests_take_turns_and_one_is_fixed() {
        let text = script(&Shape::mixed());
        assert_eq!(text.matches("wrk.format(").count(), 10);
        assert_eq!(text.matches("\"POST\", \"/post\"").count(), 1);
        assert!(text.contains("[\"Accept-Encoding\"] = \"gzip\""));
        let text = script(&[Shape::post(300)]);
        assert!(text.contains("wrk.body = string.rep(\"x\", 300)"));
        assert!(!text.contains("function request"));
    }
}
