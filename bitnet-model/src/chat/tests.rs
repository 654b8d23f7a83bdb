use crate::ErrorKind;

use super::*;

/// Templates of models, as their files have them, and what Jinja2 3.1.6 makes of [`conversation`] in the environment
/// of transformers.
const TEMPLATES: [(&str, &str); 8] = [
    (
        include_str!("../../tests/data/chat/llama-3.jinja"),
        "<s><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\
         Hi there<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        include_str!("../../tests/data/chat/qwen2.jinja"),
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n Hello\n<|im_end|>\n\
         <|im_start|>assistant\nHi there<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n\
         <|im_start|>assistant\n",
    ),
    (
        include_str!("../../tests/data/chat/bitnet-2b-4t.jinja"),
        "<s>User: Hello<|eot_id|>Assistant: Hi there<|eot_id|>User: Who are you?<|eot_id|>Assistant: ",
    ),
    (
        include_str!("../../tests/data/chat/bitnet-2b-4t-gguf.jinja"),
        "<s>Human:  Hello\n\n\nBITNETAssistant: </s>Hi there</s>Human: Who are you?\n\nBITNETAssistant: </s>",
    ),
    (
        include_str!("../../tests/data/chat/mistral-7b-v0.2.jinja"),
        "<s>[INST]  Hello\n [/INST]Hi there</s>[INST] Who are you? [/INST]",
    ),
    (
        include_str!("../../tests/data/chat/gemma.jinja"),
        "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi there<end_of_turn>\n\
         <start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
        include_str!("../../tests/data/chat/zephyr.jinja"),
        "<|user|>\n Hello\n</s>\n<|assistant|>\nHi there</s>\n<|user|>\nWho are you?</s>\n<|assistant|>\n",
    ),
    (
        include_str!("../../tests/data/chat/openchat-3.5.jinja"),
        "<s>GPT4 Correct User:  Hello\n<|end_of_turn|>GPT4 Correct Assistant: Hi there<|end_of_turn|>\
         GPT4 Correct User: Who are you?<|end_of_turn|>GPT4 Correct Assistant:",
    ),
];

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

fn conversation() -> Vec<Message> {
    vec![
        message("user", " Hello\n"),
        message("assistant", "Hi there"),
        message("user", "Who are you?"),
    ]
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
}

fn render(source: &str) -> Result<String, Error> {
    template(source).render(&[message("user", "Hello")], true)
}

#[test]
fn templates_of_models() {
    for (source, want) in TEMPLATES {
        assert_eq!(
            template(source).render(&conversation(), true).unwrap(),
            want
        );
    }
    let [(llama, with_prompt), ..] = TEMPLATES;
    let without = template(llama).render(&conversation(), false).unwrap();
    assert_eq!(
        without + "<|start_header_id|>assistant<|end_header_id|>\n\n",
        with_prompt
    );
    let no_tokens = ChatTemplate::new(llama, None, None).unwrap();
    let text = no_tokens.render(&conversation(), true).unwrap();
    assert_eq!(text, with_prompt.trim_start_matches("<s>"));
}

/// What the longer templates use, each as Jinja2 in the environment of transformers has it.
#[test]
fn the_environment_of_transformers() {
    let cases = [
        (
            "{%- if not date is defined %}\n    {%- if strftime_now is defined %}\n        \
             {%- set date = strftime_now(\"%d %b %Y\") %}\n    {%- endif %}\n{%- endif %}\n\
             {{- 'Today Date: ' + date }}",
            "Today Date: 26 Jul 2024",
        ),
        (
            "{{ strftime_now('%A %Y-%m-%d, %H:%M 100%%') }}",
            "Friday 2024-07-26, 00:00 100%",
        ),
        (
            "{{ tools is none }} {{ custom_tools is defined }}",
            "True False",
        ),
        (
            "{{ {'b': [1, 'ü<\"'], 'a': none} | tojson }}",
            "{\"b\": [1, \"ü<\\\"\"], \"a\": null}",
        ),
        (
            "{{ {'a': [1]} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1\n  ]\n}",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}\
             {% if i == 4 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "5",
        ),
        (
            "{{ messages[0].content.upper().strip('HO').split('L')|length }}",
            "3",
        ),
        (
            "{{ messages[0].get('name') is none }} {{ 'name' in messages[0] }}",
            "True False",
        ),
        (
            "{{ messages[0]['content'].startswith('He') }} {{ 'aa'.count('') }}",
            "True 3",
        ),
        (
            "{{ messages[-1].role }}{{ messages[1:] | length }}",
            "user0",
        ),
        (
            "{%- macro m(x) -%} [{{ x }}] {%- endmacro -%}\n{{ m(messages[0].role) }}\n",
            "[user]",
        ),
        // Blocks are trimmed; what they stand in is not.
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n\n", "a\nb\nc\n"),
        ("{{ '<b>&' }}{{ unknown }}", "<b>&"),
    ];
    for (source, want) in cases {
        assert_eq!(render(source).unwrap(), want, "{source}");
    }
}

#[test]
fn errors_say_where() {
    let cases = [
        ("a\n{% if %}", "chat template, line 2: syntax error: "),
        (
            "\n\n{{ messages[0].content.nothing() }}",
            "chat template, line 3: unknown method: ",
        ),
        (
            "{{ unknown.content }}",
            "chat template, line 1: undefined value",
        ),
        ("{{ x(1) }}", "chat template, line 1: unknown function: "),
        ("{% generation %}", "chat template, line 1: syntax error: "),
        (
            "{% include 'passwd' %}",
            "chat template, line 1: template not found: ",
        ),
        (
            "{{ strftime_now('%Q') }}",
            "strftime_now: %Q is not supported",
        ),
    ];
    for (source, want) in cases {
        let error = ChatTemplate::new(source, None, None)
            .and_then(|t| t.render(&[message("user", "Hello")], true))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadFile, "{source}");
        assert!(error.to_string().contains(want), "{source}: {error}");
    }
    let refused = template(include_str!("../../tests/data/chat/gemma.jinja"))
        .render(&[message("system", "Be brief.")], true)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert_eq!(
        refused.to_string(),
        "chat template: it refuses the messages: System role not supported"
    );
}

#[test]
fn hostile_templates_come_to_an_end() {
    let nested = "(".repeat(10_000);
    let cases = [
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "does not come to an end within 1000000 instructions",
        ),
        (
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "recursion limit",
        ),
        (
            "{% for i in range(9000) %}{{ 'x' * 4000 }}{% endfor %}",
            "its text is longer than 16777216 bytes",
        ),
        // Long strings count as many instructions.
        ("{{ 'x' * 1000000000000 }}", "does not come to an end"),
        (
            "{{ {} | tojson(indent=1000000000000) }}",
            "an indentation of 1000000000000",
        ),
        (&format!("{{{{ {nested}"), "syntax error"),
    ];
    for (source, want) in cases {
        let error = ChatTemplate::new(source, None, None)
            .and_then(|t| t.render(&[message("user", "Hello")], true))
            .unwrap_err();
        let short: String = source.chars().take(60).collect();
        assert!(error.to_string().contains(want), "{short}: {error}");
    }
}
