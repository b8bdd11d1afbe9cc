"""The Chinese of what is said elsewhere in English: options, notes, findings, and the sentences of the engine.

Data alone; words.py puts it to use. A test fails where a translation and what it translates no longer meet.
"""

OBJECTIVES_ZH: dict[str, str] = {
    "kto": "同时从点赞与点踩中学习，奖励从参考点 z0 算起",
    "sft": "只模仿点赞，作为对照基线",
    "dpo": "从成对的回答（同一提示的一赞一踩）中学习哪个更好",
    "apo_zero": "也从成对的回答中学习，但分别要求赞的更可能、踩的更不可能",
    "apo_zero_unpaired": "即 z0 固定为 0 的 `kto`",
    "bco": "以奖励是否高于迄今全部奖励的平均值来区分点赞与点踩",
    "ipo": "从成对的回答中学习，直到两者每个词元相差 1/(2β) nat 为止，不再拉大",
}

OPTION_HELP_ZH: dict[str, str] = {
    "model": "作为起点的因果语言模型：文件夹、Hub 名称或 `demo`。",
    "mapping": "数据中哪一列起什么作用（未能自动识别时），写作 `部分=列`，如 `prompt=question label=ok`；"
    "`kto check` 会列出各个部分。",
    "data": "反馈数据：文件，写作 `评分.jsonl+对话.jsonl` 的两个文件，"
    "或名称 `demo`、`demo-rare`（点赞占十分之一）、`demo-pairs`（每个提示两个回答）、`demo-right-or-wrong`、"
    "`thumbs`（在此工作区收集的反馈）。",
    "workspace": "存放训练、上传文件、缓存与收集到的反馈的文件夹。",
    "trust": "可以运行自带代码、使用 pickle 权重的模型，名称须与 `model` 完全一致；其余一律拒绝。"
    "只能在命令行和配置文件中设置，页面无法设置。",
    "template": "`auto`：若模型有对话模板，则提示与回答都经过模板；`none`：纯文本。",
    "template_kwargs": '另外告诉对话模板的内容，为一个 JSON 对象，例如 `{"enable_thinking": false}`：'
    "训练、检查与回答时一律使用，并写入导出的模板。",
    "seed": "适配器、批次与观察回答的随机种子：种子相同，训练相同。",
    "objective": "；".join(f"`{name}` {learns}" for name, learns in OBJECTIVES_ZH.items()) + "。",
    "beta": "奖励饱和得多快，也就是模型可以离参考模型多远；越小走得越远。",
    "desirable_weight": "λ_D，点赞的权重。留空则由类别比例决定，使 (λ_D · 点赞数) / (λ_U · 点踩数) = 1。",
    "undesirable_weight": "λ_U，点踩的权重。留空则由类别比例决定。",
    "z0": "参考点 z0：`batch` 每步由批内错配对估计（多一次前向）；"
    "`every` 每 `kl_every` 步由 `kl_sample` 个错配对重新估计（更省，但更旧）；"
    "`zero` 固定为 0（免费；适用于模型已在同一数据上微调的情形）。",
    "kl_every": "z0 为 `every` 时：两次估计之间的步数。",
    "kl_sample": "z0 为 `every` 时：一次估计所用的错配对数。",
    "reference": "奖励相对于什么计算。`base`：不带任何适配器的模型（对数据做一次前向并存盘）；"
    "`start`：带有起点适配器（start_adapter）的基础模型，开销相同；"
    "`uniform`：均匀分布，无需前向：r = log π(y|x) + π 在 y 各位置上的熵。",
    "sft_weight": "在点赞回答上按此比例加入普通的下一词损失，按词元平均（LLaMA-Factory 的 pref_ftx）；没有额外开销。",
    "tuning": "`lora` 在冻结的模型上训练一个小适配器；`full` 训练全部权重，所需内存为权重的 4 到 8 倍，"
    "并写出完整模型。",
    "start_adapter": "从此适配器继续训练：一次训练，或含适配器的文件夹；沿用它的秩、alpha 与层，"
    "并须指明 `reference`：base 或 start。留空：新的适配器。",
    "lora_r": "LoRA 适配器的秩。",
    "lora_alpha": "LoRA 缩放：适配器乘以 alpha / r。",
    "lora_dropout": "训练时适配器之前的 dropout。这样即使在第 0 步奖励也有噪声，且无法使用复用激活的快速路径。",
    "lora_targets": "哪些层加适配器：`all-linear`，或用逗号分隔的名称。只加注意力层学得较少。",
    "load_in_4bit": "QLoRA：冻结的模型以 4 位保存（NF4，双重量化）：约四分之一的内存，稍慢。",
    "learning_rate": "峰值学习率。",
    "batch_size": "一个优化步的样本数（成对目标则为对数），z0 与损失都在其上计算。"
    "它关乎统计而非内存：见 tokens_per_pass。",
    "num_train_epochs": "遍历数据的次数。",
    "group_prompts": "同一提示的多个回答放进同一批，这样提示只需经过模型一次。关闭：每行单独抽取。"
    "模拟中，学到的权重并不因此波动更大；每个提示有两到四个回答时，z0 的波动大 5% 至 16%。",
    "max_steps": "无论轮数，到此步数即停；-1 表示由 num_train_epochs 决定。",
    "lr_scheduler_type": "预热之后学习率如何下降。",
    "warmup_ratio": "学习率上升阶段占总步数的比例。",
    "weight_decay": "AdamW 的权重衰减。",
    "max_grad_norm": "范数更大的梯度会缩放到此值；0 表示不缩放。",
    "optim": "优化器；分页 8 位版本可节省显存。",
    "max_length": "提示与回答合计的词元数；更长的行先截去提示的开头，再截去回答的结尾，并会计数。",
    "tokens_per_pass": "一次送入模型的词元数。只影响内存与速度：梯度与 z0 不变。显存不足时自动减半。",
    "gradient_checkpointing": "反向传播时重算激活：更省内存，时间约多三分之一。",
    "dtype": "冻结权重与激活的精度；`auto`：GPU 上为 bfloat16，CPU 上为 float32。",
    "adapter_dtype": "模型中适配器的精度。计算总以模型的精度进行；`bfloat16` 省去每次前向时的舍入，"
    "训练时另存 float32 主权重，因此微小的更新不会丢失。需要 dtype 为 bfloat16。",
    "fused_kernels": "`auto`：在 GPU 上使用 liger-kernel 的融合归一化、旋转嵌入与 SwiGLU，"
    "前提是已安装、支持该模型家族，且与模型自身的层结果一致；`off`：从不使用。",
    "device": "在哪里训练；`auto` 有 GPU 就用 GPU。",
    "processes": "分担每一批的进程数，每块 GPU 一个；它不改变任何数值。`auto`：有几块 GPU 就几个，CPU 上一个。",
    "sharding": "多进程时：`none` 各持整个模型（DDP，放得下时最快）；`fsdp2` 分摊权重、梯度和优化器状态；"
    "`zero3` 由 DeepSpeed（须自行安装）来做。",
    "threads": "CPU 线程数；0 表示由 torch 决定。在共享的机器上，1 常比 2 快。",
    "eval_fraction": "留出用于评估的提示比例，连同它们的所有行；最多约 1000 行。",
    "eval_steps": "两次评估之间的步数；0：每轮结束时评估。",
    "save_steps": "两个检查点之间的步数，停止或崩溃后可从检查点继续；0：只在结束时保存。",
    "save_total_limit": "保留的检查点数。",
    "logging_steps": "metrics.jsonl 中两条记录之间的步数。",
    "report_to": "另外记录到 `tensorboard`、`wandb` 或 `trackio`（需自行安装）；用逗号分隔。",
    "sample_prompts": "训练时由参考模型与训练后的模型回答的提示；留空：取前几个留出的提示。",
    "sample_steps": "两次回答之间的步数；0：整个训练五次；-1：从不。",
    "sample_max_new_tokens": "最长回答的词元数。",
    "temperature": "这些回答的采样温度；0 为贪心解码，对小模型容易误导。",
    "judge": "训练时由谁评判训练后的模型对留出提示的回答（与参考模型相比）：一条规则（`shorter`、`length:10-50`、"
    "`regex:正则表达式` 等）、`demo`、`reward:奖励模型` 或 `endpoint:接口名`（`kto endpoint`）。留空：不评判。",
    "judge_steps": "两次评判之间的步数；0：随每次评估，并在结束时评判。",
    "judge_prompts": "每次评判时回答的留出提示数；不足则全部回答。",
    "judge_criteria": "由接口上的模型评判时，怎样的回答更好，用一两句话说明。",
    "judge_max_tokens": "接口上的评判者最长回复的词元数；会先思考的模型需要几千。",
    "early_stop": "连续多少次评判的胜率都没有超过此前的最高值时结束训练；0：从不。",
    "keep_best": "训练结果取胜率最高那一步的模型（其检查点会保留），而不是最后一步的。",
}


# What notes say, by kind, as in views/notes.py: what is the matter, what to try.
NOTES_ZH: dict[str, tuple[str, str]] = {
    "nan": ("从第 {step} 步起，损失不再是数值。", "请停止，换更低的学习率，或把 dtype 设为 float32。"),
    "mismatch": (
        "两类奖励与 z0 一同猛升（点赞 {chosen:.2g}，点踩 {rejected:.2g}，z0 {z0:.2g}）："
        "模型学到的是所有回答的共性，例如它没料到的模板或前缀。",
        "检查渲染后的数据：对话模板是否是模型自己的？回答是否紧接在提示之后？",
    ),
    "both_fall": (
        "两类奖励都在下降（点赞 {chosen:.2g}，点踩 {rejected:.2g}）：人们喜欢的回答也变得更不可能。",
        "试试更低的学习率、更大的 λ_D，或加一点 sft_weight。",
    ),
    "both_fall_pairs": (
        "两类奖励都在下降（点赞 {chosen:.2g}，点踩 {rejected:.2g}），点踩下降得更快："
        "`dpo` 与 `ipo` 只看两者之差，这很常见。",
        "若受欢迎的回答不应变得更不可能，试试目标 `apo_zero`，或加一点 sft_weight。",
    ),
    "rejected_only": (
        "差值 {margin:.2g} 几乎全部来自点踩一侧；点赞只提高了 {chosen:.2g}。",
        "若受欢迎的回答本来就很可能，这没有问题；否则试试更大的 λ_D 或加一点 sft_weight。",
    ),
    "far": (
        "z0 为 {z0:.2g} nat：模型已远离参考模型。",
        "看看观察用的回答；若已受损，试试更大的 β 或更低的学习率。",
    ),
    "still": (
        "{step} 步之后奖励几乎没有变化（差值 {margin:.2g}）。",
        "把学习率提高 3 到 10 倍试试；小模型需要远高于默认值的学习率。",
    ),
    "z0_zero": (
        "z0 已连续 {count} 步为 0：其他提示的回答变得更不可能，因此没有可减去的。",
        "当点赞点踩评价的是风格时，这很常见；灰色曲线（截断之前）显示它低于 0 多少。",
    ),
    "overfit": (
        "从第 {step} 步起，留出数据上的损失在上升，而训练数据上的仍在下降。",
        "模型开始死记硬背：提前停止，或提供更多反馈。",
    ),
    "one_side": (
        "还没有见到另一类反馈（{side}），因此只学到了一侧。",
        "请检查数据：KTO 可以只用一侧训练，但那样没有什么能拉住模型。",
    ),
}


# Findings of the check, by name: what was found, what to do, what the fix does. In English they say it themselves.
# {count} and {lines} are the finding's, the rest are figures of its `details`.
FINDINGS_ZH: dict[str, tuple[str, str, str]] = {
    "conflicts": (
        "{count:,} 行互相矛盾：{answers:,} 个回答既有点赞又有点踩。",
        "它们互相抵消：请决定取哪一边，或两边都删。",
        "删除所有互相矛盾的行",
    ),
    "duplicates": (
        "{count:,} 行与前面的行重复。",
        "重复的行会被计两次，并可能同时用于留出与训练；各留一行即可。",
        "各留第一行",
    ),
    "near-duplicates": (
        "{count:,} 行与前面的行几乎相同，其中 {opposite_thumbs:,} 行评价相反（比对了 {sampled_rows:,} 行）。",
        "请抽看几行：稍作改动的副本会让留出数据上的指标偏高。",
        "",
    ),
    "empty": ("{count:,} 行的回答为空。", "点赞空回答会教模型什么都不说；点踩则教它随便说点什么。", "删除这些行"),
    "one-word": ("{count:,} 行的回答只有一个词。", "分类任务没有问题；若是对话，请抽看几行。", ""),
    "template": (
        "{count:,} 行的文本中含有对话模板的标记。",
        "模型自己的模板会再加一次；请提供纯文本或消息列表。",
        "去掉回答末尾的标记，其余由你处理",
    ),
    "damage": (
        "{count:,} 行含有损坏的字符（例如 é 变成 Ã©、� 或控制字符）。",
        "模型会学着写出它们；请查明编码在哪里出错。",
        "还原被误读为 Windows-1252 的 UTF-8，并去掉控制字符",
    ),
    "keys": (
        "{count:,} 行含有疑似密钥的内容。",
        "模型可能复述训练过的内容：请吊销这些密钥，并在训练前去掉。",
        "替换为 [key]",
    ),
    "email": ("{count:,} 行含有电子邮件地址。", "模型可能复述它；请确认其主人同意。", "替换为 [email]"),
    "formula": (
        "{count:,} 行含有会被电子表格当作公式的文本（=…、#NAME?）。",
        "这里按纯文本处理；若文件曾经过电子表格，请检查是否有文本丢失。",
        "",
    ),
    "length": (
        "仅凭长度区分赞踩的 AUC 为 {telling:.2f}（0.5 为随机）：点赞的回答中位 {median_chars_up:,.0f} 字符，"
        "点踩 {median_chars_down:,.0f}。",
        "AUC 离 0.5 越远，模型越可能学到长度而非质量；可为任一侧补充其他长度的回答。",
        "",
    ),
    "language": (
        "{count:,} 行的回答与提问语言不同（抽样 {sampled_rows:,} 行）。",
        "这是按文字与常用词作的猜测。翻译任务也会如此；否则请抽看几行。",
        "",
    ),
    "one-sided": (
        "{with_several:,} 个有多个回答的提示中，{one_sided:,} 个只有一类评价。",
        "KTO 不需要成对数据；但同一提示兼有赞踩时，学到的是差别而不是话题。",
        "",
    ),
    "parts": (
        "含多个回答的行中，有 {count:,} 个回答被略去。",
        "由对应关系决定：threshold=数字 移动分界，take=best-worst 只取每行最好与最差的回答。",
        "",
    ),
    "mismatched": (
        "每批 {batch_size} 行可为 z0 得到 {mismatched_pairs:.1f} 个错配对。",
        "z0 由其他提示的回答估计；错配对偏少时，请在更多提示上收集反馈。",
        "",
    ),
    "balance": ("点赞与点踩的数量很不均衡。", "权重 λ 会补偿一部分；最好在少的一侧收集更多反馈。", ""),
}

# Sentences of the engine and of the checks: English as they say it, with (.+) for what varies, and Chinese.
SENTENCES_ZH: dict[str, str] = {
    r"Rows with images can't be trained on with shared out weights: use `sharding: none`\.": "含图片的行不能"
    "在分摊权重时训练：请使用 `sharding: none`。",
    r"Prompts with images are not sent to endpoints such as (.+)\.": "含图片的提示不会发送给 {0} 这样的接口。",
    r"A prompt can't be shown: (.+)\.": "无法显示提示：{0}。",
    r"A prompt takes (.+) tokens with its images, more than the (.+) that it may\.": "提示连同图片占 {0} 个词元，"
    "超过允许的 {1} 个。",
    r"Rows with images are scored where no images can be looked up\.": "在无法查找图片之处要为含图片的行打分。",
    r"There is no workspace here in which images could be looked up\.": "此处没有可查找图片的工作区。",
    r"An image is another one than it was when its row was read; .*": "图片与读取该行时不同；请重新载入反馈。",
    r"The model's processor refuses a prompt with images: (.+)\.": "模型的处理器拒绝含图片的提示：{0}。",
    r"(?:This|this) model reads no images\.?": "此模型不读取图片",
    r"(?:This|this) model's processor can't be loaded \((.+)\)\.?": "无法载入此模型的处理器（{0}）",
    r"(?:A|a) prompt with images needs the model's chat template\.?": "含图片的提示需要模型的对话模板",
    r"its text holds (.+), which stands for an image that is not there": "其文本含有 {0}，它代表并不存在的图片",
    r"(?:A|a) prompt takes (.+) tokens with its images, which leaves its answer too few of (.+); .*": "提示连同图片占 "
    "{0} 个词元，在 {1} 之中留给回答的太少；请提高 max_length。",
    r"Can't load the config of model (.+): (.+)\.": "无法载入模型 {0} 的配置：{1}。",
    r"its class (.*) is not known here": "此处不认识它的类 {0}",
    r"([\w.]+): (an image .+|the image .+|there is no image .+|a data URL .+)": "{0}：{1}",
    r"A side is a run's tuned model, its reference or a checkpoint-N, not (.+)\.": "对比的一方只能是训练后的模型、"
    "参考模型或 checkpoint-N，而不是 {0}。",
    r"(.+) is no run, so it has no reference of its own: .*": "{0} 不是训练，没有自己的参考模型：请选择与什么对照。",
    r"(.+) is no run, so it has no checkpoints\.": "{0} 不是训练，因此没有检查点。",
    r"Only a run has held prompts out, .*": "只有训练才留出提示，而这里没有训练参与：请用提示文件。",
    r"Only a run has prompts of its own, .*": "只有训练才有自己的提示，而这里没有训练参与：请用提示文件。",
    r"An endpoint gives no log-probabilities of a given text, so there is no heat map\.": "接口不给出已有文本的"
    "对数概率，因此没有热图。",
    r"An endpoint gives no log-probabilities of a given text, so there is no KL\.": "接口不给出已有文本的对数概率，"
    "因此没有 KL。",
    r"The two sides read text in different tokens, so there is no KL\.": "两边的分词方式不同，因此没有 KL。",
    r"An address can't be given here: .*": "这里不能填写地址：接口由运行本工作台的人命名。",
    r"(.+) is not the name of a model\.": "{0} 不是模型的名称。",
    r"There is no model in (.+): it has no config\.json\.": "{0} 中没有模型：缺少 config.json。",
    r"There is no judge (.+); there are .*": "没有评判者 {0}。",
    r"Judge `(.+)` goes by expected answers, and feedback has none; .*": "评判者 `{0}` 需要预期答案，而反馈数据中没有；"
    "请换一个。",
    r"(.+) is too small to hold prompts out for a judge\.": "{0} 太小，无法为评判留出提示。",
    r"Trials are compared by (.+); not by (.+)\.": "各次训练按 {0} 之一比较，而不是 {1}。",
    r"Option `halving` should be 0, or between 2 and 10, not (.+)\.": "选项 `halving` 应为 0，或在 2 与 10 之间，"
    "而不是 {0}。",
    r"Trials are compared on what is held out of (.+), and with seed (.+) that has no rows: raise `eval_fraction`\.": (
        "各次训练按 {0} 中留出的数据比较，而种子为 {1} 时没有留出任何行：请调高 `eval_fraction`。"
    ),
    r"Trials are compared on what is held out of (.+), and with seed (.+) that has no pairs: raise `eval_fraction`\.": (
        "各次训练按 {0} 中留出的数据比较，而种子为 {1} 时其中没有成对回答：请调高 `eval_fraction`。"
    ),
    r"Trials are compared on what is held out of (.+), and with seed (.+) that has no .+: raise `eval_fraction`\.": (
        "各次训练按 {0} 中留出的数据比较，而种子为 {1} 时其中没有同时包含两种拇指：请调高 `eval_fraction`。"
    ),
    r"A sweep needs at least two trials: .*": "扫描至少需要两次训练：请给某个选项多个值，例如 beta=0.03,0.1,0.3。",
    r"That would be (.+) trials; a sweep takes at most (.+)\.": "这将是 {0} 次训练；一次扫描最多 {1} 次。",
    r"To compare trials by a judge, .*": "要按评判者比较，请用选项 `judge` 指定一个。",
    r"Trials are compared on held-out rows: .*": "各次训练在留出的数据上比较：选项 `eval_fraction` 须大于 0。",
    r"Objective `(.+)` gives no rewards to rank rows by; .*": "目标 `{0}` 没有可供排序的奖励；请按评判者比较。",
    r"Objectives on pairs and on single answers .*": "成对目标与单个回答的目标留出的行不同；请按评判者比较。",
    r"Losses of different `(.+)` are not comparable: .*": "不同 `{0}` 的损失不可比较：各有各的尺度。请按 `ranking`"
    "（点赞的奖励高于点踩的频率）或评判者比较。",
    r"Option `(.+)` is shared by all trials of a sweep, .*": "选项 `{0}` 为扫描中所有训练共用，不能放进网格。",
    r"There is no sweep in the file (.+): it has .*": "文件 {0} 中没有扫描：其中没有 `grid` 与 `config`。",
    r"Can't read the sweep (.+?): it (.+)\.": "无法读取扫描 {0}：它{1}。",
    r"There is no sweep (.+) in (.+); .*": "{1} 中没有扫描 {0}；`kto sweep` 会列出现有的扫描。",
    r"There is no sweep in (.+); .*": "{0} 中没有扫描；`kto sweep` 会列出现有的扫描。",
    r"(.+) sweeps go by (.+): (.+)\.": "{0} 个扫描都可称为 {1}：{2}。",
    r"Sweep (.+) is (.+) already, in process (.+)\.": "扫描 {0} 已在进程 {2} 中进行。",
    r"Sweep (.+) is (.+) already\.": "扫描 {0} 已在进行。",
    r"Sweep (.+) is (.+), so it can't be asked to stop\.": "扫描 {0} 没有在进行，无法停止。",
    r"Can't make a sweep in (.+): (.+)\.": "无法在 {0} 中新建扫描：{1}。",
    r"Can't start sweep (.+) in (.+): (.+)\.": "无法在 {1} 中启动扫描 {0}：{2}。",
    r"Its process is gone; it goes on where it was\.": "进程已不在；可从中断处继续。",
    r"A training knows an endpoint by its name: .*": "训练只能用名称指定接口：请写作 `endpoint:名称`。",
    r"Option `(.+)` goes by a judge: name one with option `judge`\.": "选项 `{0}` 取决于评判者："
    "请用选项 `judge` 指定一个。",
    r"Option `judge` asks held-out prompts: .*": "选项 `judge` 使用留出的提示：`eval_fraction` 须大于 0。",
    r"Ended early: the judge has seen no better answers since step (.+); the model is that of step (.+)\.": "提前结束："
    "第 {0} 步之后评判者没有见到更好的回答；模型取自第 {1} 步。",
    r"The model is that of step (.+), whose answers the judge liked best\.": "模型取自第 {0} 步，"
    "评判者最喜欢那一步的回答。",
    r"There is no judge (.+)\.": "没有评判者 {0}。",
    r"Judge `(.+?)` is written `(.+?)`, not (.+)\.": "评判者 `{0}` 应写作 `{1}`，而不是 {2}。",
    r"Judge `length` is written .*, not (.+)\.": "词数应写作 10-50、-50 或 10-，而不是 {0}。",
    r"Judge `regex` can't read its pattern (.+?): (.+)\.": "无法读取正则表达式 {0}：{1}。",
    r"Judge `(.+)` needs an `expected` or `answer` beside every prompt; prompt (.+) has none\.": "评判者 `{0}` "
    "要求每个提示都有 `expected` 或 `answer`；第 {1} 个提示没有。",
    r"There is no prompt to evaluate on\.": "没有可用于评估的提示。",
    r"(.+) has no column `prompt`; it has (.+)\.": "{0} 没有名为 `prompt` 的列；它有 {1}。",
    r"(.+) can't be read as a table: (.+)\.": "无法将 {0} 读作表格：{1}。",
    r"There is no prompt in (.+)\.": "{0} 中没有提示。",
    r"An endpoint's address should begin with http.*": "接口的地址应以 http:// 或 https:// 开头，"
    "例如 http://127.0.0.1:8000/v1。",
    r"An endpoint's address should hold no name, password or query; .*": "接口的地址中不应含用户名、密码或查询参数；"
    "请填写密钥所在的环境变量。",
    r"No endpoint is at (.+): machines are told there .*": "{0} 不会有接口：机器从那里得知自己的身份与密钥。",
    r"(.+) is not the address of an endpoint\.": "{0} 不是接口地址。",
    r"An endpoint needs the name of its model, .*": "请填写接口上的模型名称。",
    r"There is no endpoint (.+) in this workspace, which has none yet; .*": "此工作区还没有接口，因此没有 {0}；"
    "可用 `kto endpoint add` 命名一个。",
    r"There is no endpoint (.+) in this workspace, which has (.+); .*": "此工作区没有接口 {0}，只有 {1}；"
    "可用 `kto endpoint add` 再命名一个。",
    r"Can't read endpoint (.+?) in (.+?): (.+)": "无法读取 {1} 中的接口 {0}：{2}",
    r"It has `url`, `model` and, .*": "它只应有 `url`、`model`，以及服务器需要密钥时的 `key_env`。",
    r"Its fields are texts\.": "它的各项都应是文本。",
    r"An endpoint's name consists of .*; not (.+)\.": "接口名称由字母、数字、点、连字符和下划线组成，"
    "最多 60 个；不能是 {0}。",
    r"Name the environment variable that holds the key, .*": "请填写密钥所在的环境变量名，例如 OPENAI_API_KEY，"
    "不要填写密钥本身。",
    r"The environment variable (.+) is not set, .*": "环境变量 {0} 未设置，因此没有密钥。",
    r"What the environment variable (.+) holds can't be a key\.": "环境变量 {0} 的内容不可能是密钥。",
    r"Nobody answers at (.+); is its server running\?": "{0} 没有应答；它的服务器在运行吗？",
    r"it broke off (\(.+\))": "连接中断{0}",
    r"models of type (.+) are not among those written here \((.+)\)": "此处不支持 {0} 类型的模型（支持 {1}）",
    r"its rotary embedding is scaled in a way \((.+)\) that is not written here": "此处不支持"
    "其旋转位置编码的缩放方式（{0}）",
    r"The endpoint (.+?) refused: (.+)\.": "接口 {0} 拒绝了：{1}。",
    r"The endpoint (.+?) failed (.+?) times: (.+)\.": "接口 {0} 失败了 {1} 次：{2}。",
    r"The endpoint (.+?) failed: (.+)\.": "接口 {0} 失败了：{1}。",
    r"What is at (.+) does not answer like an OpenAI-compatible endpoint\.": "{0} 的应答不像兼容 OpenAI 的接口。",
    r"An evaluation of (.+) is at work already; .*": "{0} 的一次评估正在进行；请先停止或等它结束。",
    r"Run (.+) has held no prompts out; its eval_fraction is (.+)\.": "训练 {0} 没有留出提示；"
    "其 eval_fraction 为 {1}。",
    r"The feedback of run (.+) has changed since, .*": "训练 {0} 的反馈数据已改变，因此无法得知当时留出了哪些提示。",
    r"Run (.+) has kept no checkpoints; .*": "训练 {0} 没有保留检查点；由 save_steps 与 save_total_limit 决定。",
    r"That is not a file of prompts that this page received; .*": "本页没有收到这个提示文件；请重新添加。",
    r"Its process ended without a word\.": "进程已无声结束。",
    r"Can't load the reward model (.+?): (.+)\.": "无法加载奖励模型 {0}：{1}。",
    r"Model (.+) has no trained head to give rewards with\.": "模型 {0} 没有训练过的奖励输出头。",
    r"A reward model has one output or two; (.+) has (.+) of them\.": "奖励模型应有一个或两个输出；{0} 有 {1} 个。",
    r"The winning side's answers are (.+?) times as long as the other side's: .*": "胜出一方的回答长度是"
    "另一方的 {0} 倍：请看看是否只是长度起了作用。",
    r"Starting the training process\.": "正在启动训练进程。",
    r"Loading the model\.": "正在加载模型。",
    r"Computing the reference: (.+) of (.+) batches\.": "正在计算参考模型：第 {0} / {1} 批。",
    r"Stopping, and saving the adapter\.": "正在停止并保存适配器。",
    r"Stopped before the first step\.": "在第一步之前已停止。",
    r"Interrupted\.": "已中断。",
    r"Not even one row fits: activations are recomputed, .*": "连一行也放不下：改为重算激活，时间约多三分之一。",
    r"Out of memory once: going on with (.+) tokens a pass\.": "内存不足一次：改为每次前向 {0} 个词元，继续训练。",
    r"Out of memory with a single sequence of (.+) tokens: .*": "单个 {0} 词元的序列就超出内存：请调小 max_length，"
    "或开启 load_in_4bit、gradient_checkpointing。",
    r"Process (.+) has not answered for (.+) s; .*": "进程 {0} 已有 {1} 秒无响应；点击停止可结束它并释放设备。",
    r"The server is being ended\.": "服务器正在关闭。",
    r"It was asked to stop (.+) s ago, .*": "{0} 秒前已请求停止，但尚未到达下一步；再次点击停止会立即结束它。",
    r"Process (.+), which answers for another server .*": "为此工作区的另一服务器作答的进程 {0} 无响应；请先结束它。",
    r"(.+) is being started by another process\.": "{0} 正由另一进程启动。",
    r"Its process did not answer and was ended; .*": "该进程无响应，已被结束；可从最近的检查点继续。",
    r"Its (file \S+|\S+\.jsonl?) (.+)\.": "其 {0} 无法读取（{1}）。",
    r"The process that answers did not answer any more .*": "回答进程不再响应，已被结束。再次提问会启动新的进程。",
    r"The disk can't be written to: (.+); make room, and go on\.": "磁盘无法写入：{0}；请腾出空间后继续。",
    r"There is no feedback in (.+)\.": "{0} 中没有反馈。",
    r"Step (.+) was skipped, .*; (.+) skipped so far\.": "第 {0} 步的损失或梯度不是数值，已跳过；至今共跳过 {1} 步。",
    r"Option `report_to` names (.+), which is not installed here; .*": "选项 report_to 指定的 {0} 尚未安装。",
    r"Option `report_to` should name any of (.+), not (.+)\.": "选项 report_to 应为 {0} 之一，而不是 {1}。",
    r"The checkpoint (.+) can't be loaded; .*": "检查点 {0} 无法载入；移走该文件夹后将从更早的检查点继续。",
    r"Train on (.+), or on --data (.+)\? Name one of them\.": "同时给出了 {0} 与 --data {1}，请只指定其一。",
    r"(.+) can't be started in (.+): (.+)\.": "无法在 {1} 中启动 {0}：{2}。",
    r"Its process ended without a word; the end of its log says more\.": "进程已无声结束；日志末尾有更多信息。",
    r"The loss or its gradient is no longer a number at step (.+?): .*": "第 {0} 步的损失或梯度不再是数值："
    "请降低学习率，或用 `kto check` 检查异常行。",
    r"There is no run yet\.": "还没有训练。",
    r"Run (.+) is (.+) already(?:, in process .+)?\.": "训练 {0} 已在进行中。",
    r"Run (.+) is (.+), so it can't be asked to (.+)\.": "训练 {0} 已结束，无法再执行此操作。",
    r"Run (.+) is (.+); only a stopped, failed or crashed run can be resumed\.": "训练 {0} 无法继续："
    "只有已停止、失败或崩溃的训练才能继续。",
    r"Run (.+) is (.+); stop it before you delete it\.": "训练 {0} 正在进行；请先停止再删除。",
    r"Run (.+) is (.+); export it when it has ended\.": "训练 {0} 正在进行；请在结束后导出。",
    r"Run (.+) has no adapter yet; it is (.+)\.": "训练 {0} 还没有适配器。",
    r"There is no deleted run (.+) to take back\.": "没有可恢复的训练 {0}。",
    r"There is no model in (.+): no such folder\.": "{0} 中没有模型：文件夹不存在。",
    r"There is no (.+) device on this machine; use `device: auto`\.": "本机没有 {0} 设备；请用 `device: auto`。",
    r"Can't load (?:the tokenizer of )?model (.+?): (.+)\.": "无法加载模型 {0}：{1}。",
    r"Optimizer (.+) needs a CUDA GPU; .*": "优化器 {0} 需要 CUDA 显卡；此处请用 `optim: adamw`。",
    r"No thumbs have been collected in the workspace (.+) yet\.": "此工作区还没有收集到反馈。",
    r"There is no feedback (.+) here; drop the file again\.": "这里没有反馈 {0}；请重新拖入文件。",
    r"That is not a file that this page received; drop it again\.": "本页没有收到这个文件；请重新拖入。",
    r"(.+) is empty\.": "{0} 是空文件。",
    r"(.+) is neither text nor Parquet nor Arrow\.": "{0} 既不是文本，也不是 Parquet 或 Arrow。",
    r"(.+) is damaged: (.+)\.": "{0} 已损坏：{1}。",
    r"The process that answers has died; the end of (.+) says more\. .*": "回答进程已退出；{0} 的末尾有更多信息。"
    "再问一次即可重新启动。",
    r"A preset's name has 1 to 60 letters, digits, spaces, dots or dashes\.": "预设名称为 1 到 60 个字母、"
    "数字、空格、点或连字符。",
    r"There is no adapter in (.+)\.": "{0} 中没有适配器。",
    r"There is no LoRA adapter in (.+); .*": "{0} 中没有 LoRA 适配器：缺少 adapter_model.safetensors。",
    r"The adapter in (.+) can't be read: .*": "{0} 中的适配器无法读取：adapter_config.json 已损坏。",
    r"The adapter in (.+) does not fit the model: (.+)\.": "{0} 中的适配器与模型不符：{1}。",
    r"Can't put an adapter on (.+): (.+)\.": "无法给 {0} 加适配器：{1}。",
    r"Run (.+) was trained on model (.+), so its adapter is no start for (.+)\.": "训练 {0} 用的是模型 {1}，"
    "它的适配器不能作为 {2} 的起点。",
    r"Run (.+) tuned the whole model, so it has no adapter; use its model in (.+)\.": "训练 {0} 微调了整个模型，"
    "因此没有适配器；请使用 {1} 中的模型。",
    r"Run (.+) has no (.+) model; it is (.+)\.": "训练 {0} 还没有可用的模型。",
    r"Run (.+) has no '(.+)'; it has (.+)\.": "训练 {0} 没有 {1}；它有 {2}。",
    r"adapter_dtype bfloat16 needs a model in bfloat16; .*": "adapter_dtype 为 bfloat16 时，模型也须为 bfloat16。",
    r"(.+) holds (.+) usable row; KTO needs at least two, for a mismatched pair\.": "{0} 只有 {1} 行可用；"
    "KTO 至少需要两行，才能组成错配对。",
    r"(.+) has fewer than two thumbs up to imitate\.": "{0} 中的点赞不足两个，无从模仿。",
    r"There is no run in (.+); .*": "{0} 中没有训练。",
    r"There is no run (.+) in (.+); .*": "{1} 中没有训练 {0}。",
    r"Can't make a run in (.+): (.+)\.": "无法在 {0} 中新建训练：{1}。",
    r"Can't save the preset: (.+)\.": "无法保存预设：{0}。",
    r"There is no config file (.+)\.": "没有配置文件 {0}。",
    r"Option `(.+)` should be at least (.+), not (.+)\.": "选项 `{0}` 至少应为 {1}，而不是 {2}。",
    r"Option `(.+)` should be at most (.+), not (.+)\.": "选项 `{0}` 至多应为 {1}，而不是 {2}。",
    r"Option `(.+)` should be greater than (.+), not (.+)\.": "选项 `{0}` 应大于 {1}，而不是 {2}。",
    r"Option `(.+)` should be less than (.+), not (.+)\.": "选项 `{0}` 应小于 {1}，而不是 {2}。",
    r"Option `(.+)` should be a whole number, not empty\.": "选项 `{0}` 应为整数，不能为空。",
    r"Option `(.+)` should be a number, not empty\.": "选项 `{0}` 应为数字，不能为空。",
    r"Option `(.+)` should be (.+), not (.+)\.": "选项 `{0}` 应为 {1}，而不是 {2}。",
    r"Option `tokens_per_pass` must be `auto` or at least 1\.": "选项 `tokens_per_pass` 应为 `auto`，或至少为 1。",
    r"Option `template_kwargs` can't set (.+), which is no name in a template\.": "选项 `template_kwargs` "
    "不能设置 {0}，它不是模板中的名称。",
    r"Option `template_kwargs` can't set (.+), which the workbench itself sets\.": "选项 `template_kwargs` "
    "不能设置 {0}，它由工作台自己设置。",
    r"Option `processes` must be .*": "选项 `processes` 必须是 `auto`，或至少为 1。",
    r"Option `max_steps` must be .*": "选项 `max_steps` 至少为 1；-1 表示由 `num_train_epochs` 决定。",
    r"Options `desirable_weight` and `undesirable_weight` are both 0.*": "两个权重都是 0，什么也学不到。",
    r"Option `(.+)` has no effect with objective `(.+)`; leave it at (.+)\.": "选项 `{0}` 对目标 `{1}` 不起作用；"
    "请保持 {2}。",
    r"Option `reference` `uniform` goes with objective `kto`, not with `(.+)`\.": "选项 `reference` 的 `uniform` "
    "只用于目标 `kto`，不用于 `{0}`。",
    r"(.+) has no prompt with both a thumb up and a thumb down, .* objective `(.+)` learns; .*": "{0} 中没有哪个提示"
    "既有点赞又有点踩，因此没有成对的回答可供目标 `{1}` 学习；`kto` 不需要成对。",
    r"All pairs of (.+) \(there are (.+)\) are held out to evaluate; .*": "{0} 的全部 {1} 对都被留出用于评估；"
    "请降低 `eval_fraction`。",
    r"Option `reference` `uniform` needs lora_dropout 0\.": "选项 `reference` 为 `uniform` 时，lora_dropout 须为 0。",
    r"Option `(.+)` is for tuning `lora`; .*": "选项 `{0}` 只用于微调方式 `lora`；微调全部权重时请保持默认值。",
    r"Option `start_adapter` needs `reference` beside it: .*": "设置 `start_adapter` 时须写明 `reference`："
    "`base` 以不带任何适配器的模型为参考，`start` 以带该适配器的模型为参考。",
    r"Option `reference` `start` needs a `start_adapter`\.": "选项 `reference` 为 `start` 时，须设置 `start_adapter`。",
    r"Option `z0` `every` asks .*": "选项 `z0` 为 `every` 时，训练中须随时询问参考模型，"
    "而微调方式 `full` 不保留其副本；请改用 `batch`。",
    r"There is no option `(.+?)`\.": "没有选项 `{0}`。",
    r"There is no option `(.+?)`; did you mean `(.+?)`\?": "没有选项 `{0}`；是否指 `{1}`？",
    r"(?:The config file )?(.+) should hold lines of `option: value`\.": "{0} 应由形如 `option: value` 的行组成。",
    r"There is no evaluation (.+)\.": "没有评估 {0}。",
    r"(.+) runs in (.+) go by (.+?): (.+)\.": "{1} 中有 {0} 次训练符合 {2}：{3}。",
    r"A run can be asked to (.+); not to (.+)\.": "对训练只能提出 {0}，而不是 {1}。",
    r"A run can be exported as (.+), not as (.+)\.": "训练可导出为 {0}，而不是 {1}。",
    r"Run (.+) has no model yet; it is (.+)\.": "训练 {0} 还没有模型。",
    r"The two sides read text in different tokens, .*": "两侧的分词方式不同，因此无法比较它们的对数概率。",
    r"There is something in (.+) already; .*": "{0} 中已有内容；请另选文件夹。",
    r"No token for the Hugging Face hub is set; .*": "没有设置 Hugging Face 令牌；"
    "请运行 `hf auth login`，或设置 HF_TOKEN。",
    r"The hub did not take (.+?): (.+)\.": "Hugging Face 没有接受 {0}：{1}。",
    r"The 4-bit weights of (.+) were repacked for inference, .*": "{0} 的 4 位权重已被重排为推理格式，无法继续训练；"
    "这是程序缺陷，请报告。",
    r"The adapter is not off on the reference side: .* by (\S+) from .*": "参考侧的适配器没有关闭：对数概率相差 {0}；"
    "这是程序缺陷，请报告。",
    r"The reward model's chat template refuses a prompt: (.+)\.": "奖励模型的对话模板不接受某个提示：{0}。",
    r"Option `sharding` zero3 needs DeepSpeed .*": "选项 `sharding` 为 zero3 时需要安装 DeepSpeed"
    "（`pip install --no-build-isolation deepspeed`）；`sharding: fsdp2` 同样可以分摊模型。",
    r"Option `sharding` fsdp2 needs PyTorch (.+) or newer, and this is (.+)\.": "选项 `sharding` 为 fsdp2 时"
    "需要 PyTorch {0} 或更新版本，现有版本为 {1}。",
    r"Out of memory in process (.+): resume with fewer .*": "进程 {0} 内存不足：请用更小的 tokens_per_pass 继续，"
    "或使用 `sharding: fsdp2`，它会自动改用更小的批次。",
    r"Optimizer (.+) can't be shared out among processes; .*": "优化器 {0} 无法在进程间分摊；请用 `optim: adamw`。",
    r"(.+) processes need (.+) GPUs, and this machine has one GPU; .*": "{0} 个进程需要 {1} 块 GPU，而本机只有 1 块；"
    "请用 `processes: 1`。",
    r"(.+) processes need (.+) GPUs, and this machine has (.+) GPUs; .*": "{0} 个进程需要 {1} 块 GPU，"
    "而本机只有 {2} 块；请用 `processes: {2}`。",
    r"4-bit weights can't be shared out among processes: .*": "4 位权重无法在进程间分摊：请用 `sharding: none`。",
    r"The processes find different ways of scoring this model right \((.+)\)\.": "各进程认定的"
    "正确打分方式不一致（{0}）。",
    r"The tokenizer makes tokens that the model has no embedding for, such as (.+) \((.+) beyond .*": "分词器会产生模型"
    "没有对应嵌入的词元，例如 {0}（共 {1} 个）：它的文件属于另一个模型。",
    r"The files of model (.+) lack weights, or have some of another shape: (.+) and (.+) more\.": "模型 {0} 的文件"
    "缺少权重，或其形状不符：{1} 等，另有 {2} 个。",
    r"The files of model (.+) lack weights, or have some of another shape: (.+)\.": "模型 {0} 的文件"
    "缺少权重，或其形状不符：{1}。",
    r"The adapter in (.+) brings embeddings for (.+) tokens, and this model has (.+): .*": "{0} 中的适配器带有 "
    "{1} 个词元的嵌入，而此模型有 {2} 个：训练它之前添加过词元；请以含有这些词元的模型为起点。",
    r"The adapter in (.+) acts only behind certain tokens \(aLoRA\), .*": "{0} 中的适配器"
    "只在某些词元之后起作用（aLoRA），无法在此训练。",
    r"The adapter in (.+) is no LoRA, but (.+)\.": "{0} 中的适配器不是 LoRA，而是 {1}。",
    r"This adapter can't be merged into the model: (.+)\.": "此适配器无法合并到模型中：{0}。",
    r"With this adapter in its weights the model would say something else, .*": "模型有些权重用在两处，"
    "合并此适配器后结果会不同；请改为导出适配器。",
    r"Without its adapter this model is not its base: (.+); convert .*": "去掉适配器后，此模型与其基础模型不同：{0}；"
    "请将它转换为普通的 LoRA 适配器，或合并后以合并的模型为起点。",
    r"LoftQ rounds the base's own weights when the adapter is put on": "加上适配器时，LoftQ 会舍入基础模型自身的权重",
    r"the adapter moved or replaced the base's own (.+) when it was put on, .*": "加上适配器时，基础模型自身的 {0} "
    "被改动或替换（PiSSA 与 OLoRA 会如此）",
    r"it says something else than the base": "它与基础模型的输出不同",
    r"This adapter can't be kept as the reference beside the one that learns, .*": "此适配器在层间共享权重，"
    "无法作为参考保留在训练中的适配器旁；请用 `reference: base`，或合并后以合并的模型为起点。",
    r"The reference would change while this adapter learns, .*": "此适配器还训练基础模型自身的权重（例如偏置），"
    "因此参考模型会随训练改变；请合并后以合并的模型为起点。",
    r"(.+) holds fewer than two rows to train on: (.+)\.": "{0} 中可用于训练的数据不足两行：{1}。",
    r"line (\d+): (.+)": "第 {0} 行：{1}",
    r"This model can't be scored: (.+)\.": "无法给此模型的回答打分：{0}。",
    r"This model can't be trained: it can't score a row of text itself \((.+)\)\.": "无法训练此模型："
    "它自身无法给一行文本打分（{0}）。",
    r"This model can't be trained: it gives the same text another score .*": "无法训练此模型：同一文本每次得分不同。",
    r"This model can't be trained: its weights hold NaN or infinity, first in (.+)\.": "无法训练此模型："
    "其权重含有 NaN 或无穷大，首先出现在 {0}。",
    r"This model can't be trained: its log-probabilities are no numbers\.": "无法训练此模型：其对数概率不是数值。",
    r"This model can't be trained: it is no causal language model, .*": "无法训练此模型：它不是因果语言模型，"
    "后面的词元会改变前面的结果。",
}


# Why rows and files can't be used, as feedback/ says it; what a place holds is retold too.
REASONS_ZH: dict[str, str] = {
    r"(.+?): none of its (.+) rows can be used; \S+ (\d+): (.+)\.": "{0}：{1} 行全都无法使用；第 {2} 行：{3}。",
    r"(.+?): its only row can't be used; \S+ (\d+): (.+)\.": "{0}：唯一的一行无法使用；第 {1} 行：{2}。",
    r"(.+) holds no rows\.": "{0} 没有任何行。",
    r"the line is (.+), not a JSON object": "该行是{0}，而不是 JSON 对象",
    r"the row is (.+), not a (?:JSON object|dict)": "该行是{0}，而不是 JSON 对象",
    r"the line is not valid UTF-8 \(byte (.+)\)": "该行不是有效的 UTF-8（第 {0} 字节）",
    r"the line is not valid JSON \((.+), column (.+)\)": "该行不是有效的 JSON（第 {1} 列：{0}）",
    r"the line is not valid JSON \((.+)\)": "该行不是有效的 JSON（{0}）",
    r"not valid JSON \((.+), line (.+)\); nothing after this row was read": "不是有效的 JSON（第 {1} 行：{0}）；"
    "其后的内容未读取",
    r"the JSON is nested too deeply": "JSON 嵌套过深",
    r"the JSON is nested too deeply; nothing after this row was read": "JSON 嵌套过深；其后的内容未读取",
    r"the line holds NUL bytes": "该行含有 NUL 字节",
    r"the line is longer than (.+) MB": "该行超过 {0} MB",
    r"the row is longer than (.+) MB; nothing after it was read": "该行超过 {0} MB；其后的内容未读取",
    r"the row has (.+) columns, the header (.+)": "该行有 {0} 列，而表头有 {1} 列",
    r"the row can't be read \((.+)\)": "该行无法读取（{0}）",
    r"the row holds no answer": "该行没有回答",
    r"the file ends before its list is closed, so rows may be missing": "文件在列表结束之前就终止了，可能缺少若干行",
    r"the file ends inside this row": "文件在这一行中间终止",
    r"a quote that opens here is not closed within (.+) MB; nothing after it was read": "此处的引号在 {0} MB 内"
    "没有闭合；其后的内容未读取",
    r"a quote that opens here is never closed, so the row takes in the rest of the file": "此处的引号没有闭合，"
    "文件的其余部分都被当作这一行",
    r"annotations is empty: nobody has judged this task": "annotations 为空：还没有人评价这个任务",
    r"choices holds (.+) answers, and one thumb can't tell which is meant": "choices 含有 {0} 个回答，"
    "一个评价无法说明指的是哪一个",
    r"choices holds no message": "choices 中没有消息",
    r"(.+) does not hold one value for each of (.+) answers": "{0} 没有为 {1} 个回答各给一个数值",
    r"(.+) does not hold one answer for each of (.+) prompts": "{0} 没有为 {1} 个提示各给一个回答",
    r"(.+) holds an image where only text can be trained on": "{0} 在只能用文本训练之处含有图片",
    r"(.+) holds a video or sound, which can't be read": "{0} 含有视频或声音，无法读取",
    r"(.+) holds images, and so do the messages": "{0} 含有图片，消息中也有图片",
    r"(.+) holds images, and the prompt has no user's message to show them with": "{0} 含有图片，"
    "而提示中没有可放置它们的用户消息",
    r"(.+) does not hold one image for each of (.+) places in the prompt": "{0} 没有为提示中的 {1} 处位置各给一张图片",
    r"(.+) ends with an answer that holds an image; only text can be trained on": "{0} 以含有图片的回答结尾；"
    "只能用文本训练",
    r"(.+) holds an answer with an image; only text can be trained on": "{0} 的回答含有图片；只能用文本训练",
    r"the prompt holds (.+) images, more than (.+)": "提示含有 {0} 张图片，超过 {1} 张",
    r"the prompt has a place for an image, and there is none": "提示中有图片的位置，却没有图片",
    r"an image is a path, bytes or a data URL, and this is none of them": "图片应为路径、字节或 data URL，而这不是",
    r"an image is named by its address, and addresses are not fetched": "图片以网址给出，而网址不会被访问",
    r"an image is named by its path, and there is no file beside which it could lie": "图片以路径给出，"
    "而没有它可以与之并列的文件",
    r"an image is not known in this workspace; load the feedback that it came with again": "此工作区不认识这张图片；"
    "请重新载入它所属的反馈",
    r"an image that was there when the feedback was read is gone": "读取反馈时存在的图片已不在",
    r"an image is none that can be read; it should be (.+)": "图片无法读取；应为 {0}",
    r"an image is damaged \((.+)\)": "图片已损坏（{0}）",
    r"an image in the archive is damaged \((.+)\)": "压缩包中的图片已损坏（{0}）",
    r"an image has more than (.+) million pixels": "图片的像素超过 {0} 百万",
    r"an image has (.+) pixels, more than (.+) million together": "图片有 {0} 像素，超过 {1} 百万",
    r"an image takes (.+) MB, more than (.+)": "图片占 {0} MB，超过 {1} MB",
    r"the image (.+) lies outside of the feedback's folder": "图片 {0} 位于反馈所在文件夹之外",
    r"the image (.+) lies outside of the archive": "图片 {0} 位于压缩包之外",
    r"the image (.+) is no file": "图片 {0} 不是文件",
    r"there is no image (.+) beside the feedback": "反馈旁边没有图片 {0}",
    r"there is no image (.+) in the archive": "压缩包中没有图片 {0}",
    r"a data URL is not in base64": "data URL 不是 base64",
    r"a data URL is damaged: it is not valid base64": "data URL 已损坏：不是有效的 base64",
    r"(.+) is a tie, which makes no thumb": "{0} 为平局，不产生评价",
    r"(\S+) (.+) names neither answer": "{0} 的取值 {1} 没有指明任何一个回答",
    r"(.+) rates all answers alike": "{0} 对所有回答的评分相同",
    r"(.+) lies between the best and the worst": "{0} 介于最好与最差之间",
    r"(\S+) is the id of no conversation in these files": "这些文件中没有 id 为该行 {0} 的对话",
    r"replies holds no ranked answers": "replies 中没有排过名次的回答",
    r"(.+) holds no message with the id of the judged one": "{0} 中没有被评价的那条消息",
    r"(.+) has a message of the (.+) where the judged answer should be": "{0} 中被评价处是 {1} 的消息，而不是回答",
    r"selected names the left or right answer, and which these are can't be told": "selected 只说左边或右边的回答，"
    "而无法得知哪个是哪个",
    r"(.+): its annotators disagree \((.+), (.+)\)": "{0}：标注者意见不一（{1}，{2}）",
    r"(.+) and (.+) share no prompt at their start": "{0} 与 {1} 的开头没有共同的提示",
    r"(.+) and (.+) are not of one kind": "{0} 与 {1} 的类型不同",
    r"(.+) and (.+) are the same": "{0} 与 {1} 相同",
    r"(.+) is not a list of \[question, answer\]": "{0} 不是 [question, answer] 的列表",
    r"(.+) is not a list of messages": "{0} 不是消息列表",
    r"(.+) is not a list of tools": "{0} 不是工具列表",
    r"(.+) is not a transcript of Human and Assistant": "{0} 不是 Human 与 Assistant 的对话记录",
    r"(.+) is not text": "{0} 不是文本",
    r"(.+) is missing": "缺少 {0}",
    r"(.+) is empty": "{0} 为空",
    r"(.+) holds no answer after the prompt": "{0} 在提示之后没有回答",
    r"(.+) holds only the answer and no prompt": "{0} 只有回答，没有提示",
    r"(.+) holds half an emoji that is not valid UTF-8": "{0} 含有半个表情符号，不是有效的 UTF-8",
    r"(.+) holds bytes that is not valid UTF-8": "{0} 含有不是有效 UTF-8 的字节",
    r"(.+) holds a block of type (.+); only text can be trained on": "{0} 含有类型为 {1} 的内容；只能用文本训练",
    r"(.+) holds a message that is not an object": "{0} 含有不是对象的消息",
    r"(.+) holds a message with the role (.+)": "{0} 含有角色为 {1} 的消息",
    r"(.+) ends with a message of the (.+), not with the answer to judge": "{0} 以 {1} 的消息结尾，"
    "而不是以被评价的回答结尾",
    r"(.+) ends with a tool call without text, which can't be trained on": "{0} 以没有文本的工具调用结尾，无法用于训练",
    r"(.+) 0 among 1 and -1 is neither thumbs up nor thumbs down": "{0} 的取值 0 与 1、-1 并存，既不是点赞也不是点踩",
    r"(.+) (\S+) lies on the cut (\S+): neither up nor down": "{0} 的取值 {1} 恰在分界 {2} 上：既不算点赞也不算点踩",
    r"(\S+) (.+) is neither thumbs up nor thumbs down": "{0} 的取值 {1} 既不是点赞也不是点踩",
    r"The better answer is empty\.": "更好的回答是空的。",
    r"The better answer is the same as the answer\.": "更好的回答与原回答相同。",
    # files
    r"The dataset in (.+) is damaged: (.+)\.": "{0} 中的数据集已损坏：{1}。",
    r"(.+) is a folder; give a file in it, .*": "{0} 是文件夹；请给出其中的文件，"
    "或由 datasets 的 save_to_disk 写出的文件夹。",
    r"(.+) is not a regular file but a pipe, .*": "{0} 不是普通文件；请先把内容保存到文件。",
    r"(.+) is a zip archive inside of another one; unpack it first\.": "{0} 是压缩包中的 zip 压缩包；请先解压。",
    r"(.+) is a zip archive without a file of feedback in it, .*": "zip 压缩包 {0} 中没有反馈文件，"
    "如 .jsonl、.csv 或 .parquet。",
    r"(.+) is a zip archive with (.+) files of feedback \((.+)\); .*": "zip 压缩包 {0} 中有 {1} 个反馈文件（{2}）；"
    "请给出只含一个的压缩包。",
    r"(.+) can't be read as a zip archive: (.+)\.": "{0} 无法作为 zip 压缩包读取：{1}。",
    r"Prompt (.+) of (.+) holds an image; .*": "{1} 的第 {0} 个提示含有图片；文件中的提示只能是文本。",
    r"Can't keep where images are in (.+): (.+)\.": "无法把图片的位置写入 {0}：{1}。",
    r"(.+) is not a complete (.+) file: (.+)\.": "{0} 不是完整的 {1} 文件：{2}。",
    r"(.+) unpacks to more than (.+) times its size: .*": "{0} 解压后超过原大小的 {1} 倍，疑似压缩炸弹。",
    r"(.+) is empty: it holds nothing but white space\.": "{0} 是空文件：只有空白字符。",
    r"(.+) is not feedback as it stands: .*, and its columns are (.+); say which is which with a mapping\.": "{0} "
    "还不能当作反馈：需要 prompt、completion 与 label，或 prompt、chosen 与 rejected，或 messages 与 label；"
    "而它的列是 {1}。",
    r"(.+) and (.+) can't be joined: .*": "{0} 与 {1} 无法拼合：一个应含评分及所评内容的 id，"
    "另一个应含带有该 id 的对话；请用对应关系中的 rates 与 id 指明是哪两列。",
    r"(.+) holds ratings of (.+) without the text .* as in (.+)\.": "{0} 只有 {1} 的评分，没有被评价的文本；"
    "请一并给出对话所在的文件，例如 {2}。",
    r"There are no ratings in (.+)\.": "{0} 中没有评分。",
    r"No rating in (.+) is named `(.+)`; they are named (.+)\.": "{0} 中没有名为 `{1}` 的评分；现有的名称为 {2}。",
    r"(.+) has no column `(.+)` for (.+); its columns are (.+)\.": "{0} 没有用作 {2} 的列 `{1}`；它的列是 {3}。",
    r"The CSV header names the column `(.+)` twice\.": "CSV 表头中列 `{0}` 出现了两次。",
    r"A mapping is written part=column, such as prompt=question, not `(.+)`\.": "对应关系写作“部分=列”，"
    "例如 prompt=question，而不是 `{0}`。",
    r"A mapping has no part `(.+)`; its parts are (.+)\.": "对应关系中没有 `{0}` 这一部分；可用的有 {1}。",
    r"The mapping's take should be (.+), not (.+)\.": "对应关系中的 take 应为 {0}，而不是 {1}。",
    r"The mapping's threshold should be a number, not (.+)\.": "对应关系中的阈值应为数字，而不是 {0}。",
    r"There is no file (.+), and no such dataset can be had from the hub: (.+)\.": "没有文件 {0}，"
    "也无法从 Hub 获得同名数据集：{1}。",
    r"There is no file (.+)\.": "没有文件 {0}。",
    r"(.+) has no column `prompt`; it has (.+)\.": "{0} 没有名为 `prompt` 的列；它有 {1}。",
    r"(.+) can't be read as a table: (.+)\.": "无法将 {0} 读作表格：{1}。",
    r"There is no prompt in (.+)\.": "{0} 中没有提示。",
    r"Run (.+) held no prompts out; take all of its data, or a file\.": "训练 {0} 没有留出提示；请用其全部数据或文件。",
    r"Prompt (.+) of (.+) is neither a text nor a list of messages\.": "{1} 的第 {0} 个提示既不是文本，"
    "也不是消息列表。",
    r"Prompt (.+) of (.+) holds half a character: a surrogate without its other half\.": "{1} 的第 {0} 个提示"
    "含有半个字符：缺少另一半的代理码位。",
    r"(.+) can't be read: its JSON is nested too deeply\.": "无法读取 {0}：其 JSON 嵌套过深。",
    r"(.+) can't be read: a number is too long\.": "无法读取 {0}：有一个数字过长。",
    r"(.+) can't be read: a number in line (.+) is too long\.": "无法读取 {0}：第 {1} 行有一个数字过长。",
    r"(.+) is not JSON: (.+) in line (.+)\.": "{0} 不是 JSON：第 {2} 行：{1}。",
    r"Can't read the endpoints in (.+?): .*": "无法读取 {0} 中的接口。",
    r"Can't read (?:the config file )?(.+): (.+)\.": "无法读取 {0}：{1}。",
    r"Can't write this model as GGUF: nobody has named a place for its tensor (.+)\.": "无法将此模型写成 GGUF："
    "其张量 {0} 在该格式中没有对应的位置。",
    r"Can't write this model as GGUF: (.+)\. Export it as `merged`, .*": "无法将此模型写成 GGUF：{0}。"
    "请导出为 `merged`，再把该文件夹交给 llama.cpp 的 convert_hf_to_gguf.py。",
    r"Can't write to (.+): it is a link\.": "无法写入 {0}：它是一个链接。",
    r"Can't write (?:to (?:the workspace )?)?(.+): (.+)\.": "无法写入 {0}：{1}。",
    r"Can't keep the rows in (.+): (.+)\.": "无法在 {0} 中保存数据行：{1}。",
    r"Can't use the thumbs in (.+): (.+)\. The damaged file is (.+) now; (.+) thumbs could .*": "反馈文件 {0} 已损坏"
    "（{1}），现更名为 {2}；从中读回并保留了 {3} 条反馈。",
    r"Can't use the thumbs in (.+): (.+)\.": "无法使用 {0} 中的反馈：{1}。",
    r"There is no fix `(.+)`; there are (.+)\.": "没有名为 `{0}` 的修复；可用的有 {1}。",
    r"(.+) exists; fixes never write over a file\.": "{0} 已存在；修复不会覆盖文件。",
    r"There is no thumb (.+) in (.+)\.": "{1} 中没有反馈 {0}。",
    r"Thumbs are exported to a \.jsonl or a \.parquet file, not to (.+)\.": "反馈可导出为 .jsonl 或 .parquet 文件，"
    "而不是 {0}。",
    r"(.+) was written by a newer workbench; update this one\.": "{0} 由更新版本的工作台写成；请更新本程序。",
    r"Feedback is a file, a name, a list of dicts or a table, not a (.+)\.": "反馈应为文件、名称、字典列表或表格，"
    "而不是 {0}。",
    r"assets/(.+) is missing; `(.+)` makes the demo's files again\.": "缺少 assets/{0}；`{1}` 可重新生成示例文件。",
    r"The tokenizer of model (.+) names no end-of-sequence token, so answers could not end\.": "模型 {0} "
    "的分词器没有结束词元，回答将无法结束。",
    r"[Tt]he model's chat template refuses messages of roles (.+?): (.+?)\.?": "模型的对话模板不接受角色为 {0} "
    "的消息：{1}。",
}

# Why a setting is suggested, as runs/settings.py says it.
SETTINGS_ZH: dict[str, str] = {
    "demo": "在示例模型上试出来的",
    "beta_tuned_large": "{size} 参数，已为对话微调：0.01 到 0.1（KTO 论文）",
    "beta_tuned": "已为对话微调（依据：{sign}），{size} 参数：取 0.01 到 0.1 的上端（KTO 论文）",
    "beta_large": "{size} 参数：取 0.01 到 0.1 的上端（KTO 论文）",
    "beta_base": "{size} 参数，未为对话微调：0.1 到 1（KTO 论文）",
    "rate_full": "微调全部权重：AdamW 取 5e-6（KTO 论文）",
    "rate_lora": "适配器约为全部微调所用 5e-6 的十倍（LoRA 惯例）",
    "rank": "足以改变行为（LoRA 惯例）",
    "rank_tight": "内存紧张（{need} / {free} GB），取得比通常小",
    "length": "可完整容纳 {share:.0%} 的数据行；样本中最长 {longest:,} 个词元（你的数据）",
    "length_model": "模型最多能读这么长；{share:.0%} 的数据行放得下（config.json）",
    "bits_on": "16 位需要 {need} GB，而可用 {free} GB；4 位需要 {less} GB（内存估算）",
    "bits_off": "原样即可放下：{need} / {free} GB（内存估算）",
}

# What may stand inside these sentences: kinds of values, and reasons of Python and of the system.
PIECES_ZH: dict[str, str] = {
    "an object": "对象",
    "a list": "列表",
    "a text": "文本",
    "a number": "数字",
    "true or false": "真假值",
    "null": "空值",
    "a whole number": "整数",
    "a finite number": "有限的数",
    "text": "文本",
    "a list of texts": "文本列表",
    'a JSON object such as {"enable_thinking": false}': '形如 {"enable_thinking": false} 的 JSON 对象',
    "made of texts, numbers, lists and objects alone": "仅由文本、数字、列表和对象组成",
    "it is nested too deeply": "嵌套过深",
    "it computes its attention by itself": "它自行计算注意力",
    "its head is not a plain linear layer": "它的输出层不是普通的线性层",
    "its tokenizer is none of the byte-level ones that are written here": "其分词器不属于此处支持的字节级分词器",
    "a number is too long": "数字过长",
    "it is not UTF-8 text": "不是 UTF-8 文本",
    "permission denied": "没有权限",
    "Permission denied": "没有权限",
    "No space left on device": "磁盘空间不足",
    "No such file or directory": "没有这个文件或文件夹",
    "Read-only file system": "文件系统为只读",
    "Is a directory": "是文件夹",
    "Expecting value": "此处应有值",
    "Expecting ',' delimiter": "此处应有逗号",
    "Expecting ':' delimiter": "此处应有冒号",
    "Expecting property name enclosed in double quotes": "此处应有带双引号的键",
    "Unterminated string": "字符串没有结束",
    "Unterminated string starting at": "字符串没有结束",
    "Invalid control character at": "含有无效的控制字符",
    "Invalid control character": "含有无效的控制字符",
    "Invalid \\escape": "无效的转义",
    "Invalid \\uXXXX escape": "无效的 \\u 转义",
    "Extra data": "末尾有多余的内容",
    "Illegal trailing comma before end of object": "对象末尾有多余的逗号",
    "Illegal trailing comma before end of array": "列表末尾有多余的逗号",
}
