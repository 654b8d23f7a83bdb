//! `--chat`: prompts as the model's chat template has them.

use bitnet_core::gguf::Metadata;

use super::*;

const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\n{{ message.role | capitalize }}: \
                        {{ message.content | trim }}{{ eos_token }}\n{% endfor %}\n\
                        {% if add_generation_prompt %}Assistant:{% endif %}";

/// The bundled model with a chat template.
fn model(scratch: &Scratch, template: &str) -> PathBuf {
    let path = scratch.path("chat.gguf");
    tiny_with(&path, |metadata| {
        let mut changed = Metadata::new(&path);
        // A chat is not over where the answer begins, whatever the model adds to other texts.
        let eos = "tokenizer.ggml.add_eos_token";
        for (key, value) in metadata.iter().filter(|(key, _)| *key != eos) {
            changed.insert(key, value.clone()).expect("a new key");
        }
        changed.insert(eos, true).expect("a new key");
        changed
            .insert("tokenizer.chat_template", template)
            .expect("a new key");
        changed
    });
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The exit code, and what was said.
fn fails(model: &Path, more: &[&str]) -> (i32, String) {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let mut args = vec!["run", "--model", text(model), "--out", text(&out), "--chat"];
    args.extend(["--reference", "rust"]);
    args.extend(more);
    let output = crossval(&args);
    (exit_code(&output), stderr(&output))
}

#[test]
fn a_prompt_is_rendered_by_the_models_template() {
    let scratch = Scratch::new();
    let model = model(&scratch, TEMPLATE);
    let file = scratch.path("prompt.txt");
    std::fs::write(&file, "The <s>dog\n").expect("a prompt");
    let reference = if cfg!(feature = "reference") {
        "bitnet.cpp"
    } else {
        "rust"
    };
    let args = [
        "--reference",
        reference,
        "--chat",
        "--no-bench",
        "--n-predict",
        "2",
    ];
    let prompts = [
        "--prompt",
        " Once upon a time",
        "--prompt-file",
        text(&file),
    ];
    let (code, report, _) = run(&model, &[&args[..], &prompts].concat());
    assert_eq!(code, 0, "{:?}", report.verdict.reasons);
    let [first, second] = &report.inputs.prompts[..] else {
        panic!("{:?}", report.inputs.prompts)
    };
    assert_eq!(first.text.as_deref(), Some(" Once upon a time"));
    assert_eq!(
        first.rendered.as_deref(),
        Some("<s>User: Once upon a time</s>\nAssistant:")
    );
    // BOS is that of the template, not one more; what the prompt spells out is a token too.
    let count = |tokens: &[u32], id| tokens.iter().filter(|&&t| t == id).count();
    assert_eq!(
        (
            first.tokens[0],
            count(&first.tokens, 1),
            count(&first.tokens, 2)
        ),
        (1, 1, 1)
    );
    assert_eq!((second.tokens[0], count(&second.tokens, 1)), (1, 2));

    // BOS that the template lacks and the tokenizer would add is put in front.
    let bare = scratch.path("bare");
    std::fs::create_dir(&bare).expect("a folder");
    let args = [&args[..], &["--out", text(&bare)]].concat();
    let without = self::model(&scratch, TEMPLATE.trim_start_matches("{{ bos_token }}"));
    let mut command = vec![
        "run",
        "--model",
        text(&without),
        "--prompt",
        " Once upon a time",
    ];
    command.extend(&args);
    let output = crossval(&command);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let read = |name: &str| std::fs::read_to_string(bare.join(name)).expect("a report");
    let report: Report = serde_json::from_str(&read("report.json")).expect("a report");
    let prompt = &report.inputs.prompts[0];
    assert_eq!(
        prompt.rendered.as_deref(),
        Some("<s>User: Once upon a time</s>\nAssistant:")
    );
    assert_eq!((prompt.tokens[0], count(&prompt.tokens, 1)), (1, 1));
    assert!(
        read("report.html").contains("&lt;s&gt;User: Once upon a time&lt;&#x2f;s&gt;\nAssistant:")
    );
    assert!(read("report.md").contains("As the chat template renders it"));
}

#[test]
fn a_trace_keeps_what_was_rendered() {
    let scratch = Scratch::new();
    let model = model(&scratch, TEMPLATE);
    let trace = scratch.path("run.safetensors");
    let mut args = vec!["record", "--model", text(&model), "-o", text(&trace)];
    args.extend(["--engine", "rust", "--chat", "--n-predict", "2"]);
    let output = crossval(&args);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let reference = format!("trace:{}", trace.display());
    let (code, recorded, _) = run(&model, &["--reference", &reference]);
    assert_eq!(code, 0, "{:?}", recorded.verdict.reasons);
    let live = [
        "--reference",
        &reference,
        "--chat",
        "--prompt",
        "Once upon a time",
    ];
    let (code, live, _) = run(&model, &live);
    assert_eq!(code, 0, "{:?}", live.verdict.reasons);
    let prompt = &recorded.inputs.prompts[0];
    assert!(
        prompt
            .rendered
            .as_deref()
            .is_some_and(|r| r.contains("User: Once"))
    );
    assert_eq!(prompt.rendered, live.inputs.prompts[0].rendered);
    assert_eq!(prompt.tokens, live.inputs.prompts[0].tokens);
    let (code, message) = fails(&model, &["--candidate", &reference]);
    assert_eq!(code, 64, "{message}");
    assert!(
        message.contains("--chat: the prompts are token IDs"),
        "{message}"
    );
}

#[test]
fn tokenize_renders_too() {
    let scratch = Scratch::new();
    let model = model(&scratch, TEMPLATE);
    let tokenize = |more: &[&str]| {
        let mut args = vec!["tokenize", "--model", text(&model), "--engine", "rust"];
        args.extend(["--ids"]);
        args.extend(more);
        let output = crossval(&args);
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let chat = tokenize(&["--chat", "--text", "The dog"]);
    let rendered = "<s>User: The dog</s>\nAssistant:";
    assert_eq!(chat, tokenize(&["--no-bos", "--text", rendered]));
    assert!(tokenize(&["--text", rendered]).ends_with(", 2]\n"));
    assert!(!chat.ends_with(", 2]\n"), "{chat}");
    let refused = [
        "tokenize", "--model", TINY, "--engine", "rust", "--chat", "--text", "a",
    ];
    assert_eq!(exit_code(&crossval(&refused)), 64);
}

#[test]
fn what_cannot_be_rendered() {
    let (code, message) = fails(Path::new(TINY), &[]);
    assert_eq!(code, 64);
    assert!(message.contains("has no chat template"), "{message}");
    let (code, message) = fails(Path::new(TINY), &["--tokens", "1,2"]);
    assert_eq!(code, 64);
    assert!(message.contains("--tokens"), "{message}");
    let record = [
        "record",
        "--model",
        TINY,
        "-o",
        "/dev/null",
        "--engine",
        "rust",
        "--chat",
    ];
    assert_eq!(exit_code(&crossval(&record)), 64);
    for (template, says) in [
        (
            "a\n{% if %}",
            "chat.gguf: chat template, line 2: syntax error",
        ),
        (
            "{{ raise_exception('no chats') }}",
            "chat.gguf: chat template: it refuses the messages: no chats",
        ),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "instructions",
        ),
        // Long in few instructions: only the process's memory bounds it.
        (
            "{{ '{:>4000000000}'.format(1) | length }}",
            "rendering it died with SIGABRT; it may take 10 s and 1 GiB",
        ),
    ] {
        let scratch = Scratch::new();
        let (code, message) = fails(&model(&scratch, template), &[]);
        assert_eq!(code, 65, "{template}: {message}");
        assert!(message.contains(says), "{template}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn inspect_says_where_a_prompt_ends() {
    let scratch = Scratch::new();
    for (template, says) in [
        (TEMPLATE, None),
        (
            "{{ messages[0].content }}{{ eos_token }}",
            Some("chat-no-turn"),
        ),
        (
            "{{ messages[0].content }} Assistant: {{ eos_token }}",
            Some("chat-ends"),
        ),
        ("{{ raise_exception('no') }}", Some("chat-template-broken")),
    ] {
        let model = model(&scratch, template);
        let output = crossval(&["inspect", "--json", text(&model)]);
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let remarks = json["remarks"].as_array().expect("remarks").iter();
        let ids = remarks.filter_map(|remark| remark["id"].as_str());
        let of_chat: Vec<&str> = ids.filter(|id| id.starts_with("chat-")).collect();
        match says {
            Some(id) => assert!(of_chat.contains(&id), "{template}: {of_chat:?}"),
            None => assert!(of_chat.is_empty(), "{template}: {of_chat:?}"),
        }
    }
}
