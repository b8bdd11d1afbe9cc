"""Every string of the page, English and Simplified Chinese side by side.

    label("tab.data")                            for what stands still: the browser picks its language (gr.I18n)
    say(language, "progress.step", step=3, …)    for what the server writes: pass language_of(request)

The help of an option is written once, in config.py, a note in views/notes.py, a finding in feedback/findings.py, and
what the engine says where it says it; their translations are in chinese.py.

No gettext: both languages of a string stand in one line, so that nobody changes one and forgets the other, and a test
holds that none is missing; the browser wants them as tables anyway; and what the engine says reaches the page as whole
sentences, numbers in it, which a catalogue of msgids can't look up. A third language would be the time for it.
"""

import re
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from kto_workbench.config import options
from kto_workbench.feedback.findings import Finding
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs.settings import TEXTS as SETTINGS
from kto_workbench.ui.chinese import (
    FINDINGS_ZH,
    NOTES_ZH,
    OBJECTIVES_ZH,
    OPTION_HELP_ZH,
    PIECES_ZH,
    REASONS_ZH,
    SENTENCES_ZH,
    SETTINGS_ZH,
)
from kto_workbench.ui.lesson_words import LESSON_WORDS
from kto_workbench.views.notes import TEXTS as NOTES

LANGUAGES = ("en", "zh")
STEPS_OF_LEARN = ("word", "loss", "r", "z0", "beta", "lambda")

WORDS: dict[str, tuple[str, str]] = {
    "app.header": (
        '<div class="kto-title"><h1>KTO Workbench</h1><p>Thumbs in, a better model out.</p></div>',
        '<div class="kto-title"><h1>KTO Workbench</h1><p>用点赞与点踩，炼出更好的模型。</p></div>',
    ),
    "page.odd": (
        "That can't be done with what the page has sent; reload it and try again.",
        "无法处理页面发送的内容；请刷新页面后重试。",
    ),
    "page.beside": (
        "This workspace is served at {addresses}, too: the same runs and thumbs, and answers in turn.",
        "此工作区同时也由 {addresses} 提供服务：两边显示相同的训练与反馈，并轮流作答。",
    ),
    "tab.data": ("Data", "数据"),
    "tab.train": ("Train", "训练"),
    "tab.compare": ("Compare", "对比"),
    "tab.feedback": ("Feedback", "反馈"),
    "tab.runs": ("Runs", "历史"),
    "tab.learn": ("Learn", "原理"),
    # data
    "data.source": ("Feedback", "反馈数据"),
    "data.source.help": (
        "A demo, or a file that you drop below; ratings and conversations in two files go together.",
        "选择示例，或在下方拖入文件；若评分与对话分在两个文件，请一起拖入。",
    ),
    "data.upload": ("Drop a file: JSONL, JSON, CSV, Parquet or a zip", "拖入文件：JSONL、JSON、CSV、Parquet 或 zip"),
    "data.not_kept": ("The file could not be kept: {reason}.", "文件无法保存：{reason}。"),
    "data.ratio": ("All thumbs up weigh, against all thumbs down", "点赞总权重 ÷ 点踩总权重"),
    "data.ratio.help": (
        "1 to 1.5 times, by the paper. The weights λ follow.",
        "论文建议取 1 到 1.5；权重 λ 随之确定。",
    ),
    "mapping.title": ("Columns: how this file is read", "各列：如何读取此文件"),
    "mapping.guess": (
        "This file is not recognised. Below is a guess; correct it until the rows look right, then read it so.",
        "无法识别此文件。下面是一种猜测；请更正到各行看起来正确，再按此读取。",
    ),
    "mapping.incomplete": (
        "Choose the columns that hold what is asked, what is answered, and what was thought of it.",
        "请选择含有提示、回答与评价的列。",
    ),
    "mapping.columns": ("Columns of the file", "文件的各列"),
    "mapping.column": ("Column", "列"),
    "mapping.example": ("Example", "示例"),
    "mapping.shape": ("A row holds", "每行包含"),
    "mapping.one": ("one answer with a thumb", "一个带评价的回答"),
    "mapping.pair": ("a better and a worse answer", "较好与较差的回答"),
    "mapping.two": ("two answers and which won", "两个回答及胜者"),
    "mapping.list": ("several rated answers", "多个带评分的回答"),
    "mapping.threshold": ("all, cut at a threshold", "全部，按阈值划分"),
    "mapping.best-worst": ("the best against the worst", "最好对最差"),
    "mapping.preview": ("The first rows, read so:", "按此读取的前几行："),
    "mapping.keep": ("Read the file so", "按此读取文件"),
    "mapping.forget": ("Recognise it anew", "重新识别"),
    "part.prompt": ("Prompt", "提示"),
    "part.completion": ("Answer", "回答"),
    "part.messages": ("Or: messages", "或：消息列表"),
    "part.judged": ("Judged message", "被评价的消息"),
    "part.label": ("Thumb", "评价"),
    "part.system": ("System prompt", "系统提示"),
    "part.chosen": ("Better answer", "较好的回答"),
    "part.rejected": ("Worse answer", "较差的回答"),
    "part.answer_a": ("First answer", "第一个回答"),
    "part.answer_b": ("Second answer", "第二个回答"),
    "part.winner": ("Winner", "胜者"),
    "part.score_a": ("Or: score of the first", "或：第一个的评分"),
    "part.score_b": ("Score of the second", "第二个的评分"),
    "part.answers": ("Answers", "各个回答"),
    "part.scores": ("Scores", "各个评分"),
    "part.ranks": ("Or: ranks, 1 is best", "或：名次，1 为最好"),
    "part.take": ("Take", "取用"),
    "part.threshold": ("Up is above", "高于此值为点赞"),
    "part.up": ("Words for up", "表示点赞的词"),
    "part.down": ("Words for down", "表示点踩的词"),
    "part.a": ("The first won, if", "第一个胜出的取值"),
    "part.b": ("The second won, if", "第二个胜出的取值"),
    "part.both_bad": ("Both are bad, if", "两个都差的取值"),
    "data.train": ("Train on this →", "用这些数据训练 →"),
    "source.demo": ("Demo: kind and brief", "示例：友善而简短"),
    "source.demo-rare": ("Demo: thumbs up are rare (1 in 10)", "示例：点赞稀少（十分之一）"),
    "source.demo-pairs": ("Demo: pairs, two answers to each prompt", "示例：成对回答（每个提示两个回答）"),
    "source.demo-right-or-wrong": ("Demo: right or wrong", "示例：对与错"),
    "source.thumbs": ("Thumbs collected here", "在此收集的反馈"),
    "side.up": ("Thumbs up", "点赞"),
    "side.down": ("Thumbs down", "点踩"),
    "card.rows": ("Rows", "行数"),
    "card.rows.hint": ("usable", "可用"),
    "card.up.hint": ("desirable", "想要的"),
    "card.down.hint": ("undesirable", "不想要的"),
    "card.odds": ("Up : down", "赞 : 踩"),
    "card.odds.hint": ("as counted", "按数量"),
    "card.weight_up.hint": ("per up", "每个点赞"),
    "card.weight_down.hint": ("per down", "每个点踩"),
    "card.prompts": ("Different prompts", "不同的提示"),
    "card.prompts.hint": ("{each:.2g} answers each", "平均每个 {each:.2g} 个回答"),
    "card.prompt_tokens": ("Prompt, in tokens", "提示（词元）"),
    "card.completion_tokens": ("Answer, in tokens", "回答（词元）"),
    "card.tokens.hint": ("median; 95 % have at most {most:,}", "中位数；95% 不超过 {most:,}"),
    "card.tokens.waiting": ("counting …", "正在统计……"),
    "card.tokens.unknown": ("once the model is on this machine", "模型下载到本机后显示"),
    "balance.counted": ("Counted", "数量"),
    "balance.weighted": ("With λ", "乘以 λ"),
    "balance.spoken": ("{name}: thumbs up {up}, thumbs down {down}", "{name}：点赞 {up}，点踩 {down}"),
    "problems.none": ("Every row can be read.", "所有行都可读取。"),
    "problems.some": ("{count:,} rows were skipped; the rest can be read.", "跳过 {count:,} 行，其余可读取。"),
    "data.refused": (
        "{count:,} of {rows:,} rows looked at can't be used with model {model}; line {line}: {reason}.",
        "查看的 {rows:,} 行中有 {count:,} 行无法用于模型 {model}；第 {line} 行：{reason}。",
    ),
    "problems.more": ("and {count:,} more", "还有 {count:,} 行"),
    "problems.line": ("Line", "行"),
    "problems.field": ("Field", "字段"),
    "problems.reason": ("Reason", "原因"),
    "rows.title": ("Rows", "数据行"),
    "rows.all": ("All", "全部"),
    "rows.up": ("Up", "点赞"),
    "rows.down": ("Down", "点踩"),
    "rows.before": ("← Back", "← 上一页"),
    "rows.after": ("Next →", "下一页 →"),
    "rows.where": ("{first:,}–{last:,} of {total}", "第 {first:,}–{last:,} 行，共 {total} 行"),
    "rows.earlier": ("Earlier turns: {count:,}", "之前的轮次：{count:,}"),
    "rows.image": ("Image {number}", "图片 {number}"),
    "rows.whole": ("all of it", "全文"),
    "rows.none": ("No rows to show.", "没有可显示的行。"),
    # the check
    "check.fixes": ("Fixes", "修复"),
    "check.fix": ("Make a fixed file and use it", "生成修复后的文件并使用"),
    "check.lines": ("lines {lines}", "第 {lines} 行"),
    "check.rendered": ("As the model sees them", "按模型所见显示"),
    "check.elsewhere": (
        "Model {model} is not on this machine; Start on the Train tab fetches it. Until then, rows show as they are.",
        "模型 {model} 不在本机；在“训练”页点击“开始”时才会下载。在此之前按原样显示数据行。",
    ),
    "check.tokens": (
        "{prompt:,} tokens of prompt, {completion:,} trained",
        "提示 {prompt:,} 个词元，训练 {completion:,} 个",
    ),
    "check.cut": ("; {count:,} cut off", "；截去 {count:,} 个"),
    "check.refused": ("Left out of training: {reason}.", "不参与训练：{reason}。"),
    "check.system": ("; the system text goes before the first user text", "；系统文本置于首条用户文本之前"),
    "check.thought.whole": ("; with its thought", "；连同其思考过程"),
    "check.thought.inside": ("; from inside of its thought on", "；从思考过程之中开始"),
    "check.thought.closed": ("; without a thought, which is closed for it", "；没有思考过程，已代为结束"),
    "check.thought.skipped": ("; without the thought that the model begins with", "；没有模型通常先写的思考过程"),
    "check.thought.doubled": ("; with a second thought behind a closed one", "；在已结束的思考之后又有一段思考"),
    # train
    "train.pairs": ("{pairs:,} pairs of {rows:,} rows.", "{rows:,} 行中有 {pairs:,} 对。"),
    "train.new": ("<h2>Settings of the next run</h2>", "<h2>下一次训练的设置</h2>"),
    "train.more": ("More options", "更多选项"),
    "train.presets": ("Presets", "预设"),
    "train.preset": ("Preset", "预设"),
    "train.preset.help": ("Choose one, or type a new name.", "选择一个，或输入新名称。"),
    "train.preset.load": ("Load", "载入"),
    "train.preset.save": ("Save", "保存"),
    "train.preset.saved": ("Saved as {name}.", "已保存为 {name}。"),
    "train.exact": ("What Start will run", "“开始”将执行的命令"),
    "train.command": ("The same in a shell", "等价的命令行"),
    "expected.of": ("Memory: about {span} GB of {free} GB free{where}", "内存：约 {span} GB，{where}可用 {free} GB"),
    "expected.gpu": (" on the GPU", "GPU "),
    "expected.recomputed": (", activations made again in the backward pass", "，反向传播时重算激活"),
    "expected.tight": (
        " (tight: see batch size, Longest row and 4-bit model)",
        "（紧张：可调小批大小、最大长度，或用 4 位模型）",
    ),
    "expected.unknown": (
        "The model is not on this machine yet: Start fetches it. Memory is estimated then.",
        "模型尚不在本机：点击“开始”时下载，之后会估算内存。",
    ),
    "expected.time": ("about {time}, at the pace of the last run", "约需 {time}（按上次训练的速度）"),
    "train.start": ("Start", "开始"),
    "train.stop": ("Stop", "停止"),
    "train.resume": ("Resume", "继续"),
    "train.queued": (
        "Another run is at work, so this one waits for its turn.",
        "另一个训练正在进行，本次训练已排队等候。",
    ),
    "train.stopping": (
        "Stopping at the next step; the adapter so far is kept.",
        "将在下一步停止；目前的适配器会保留。",
    ),
    "train.ended": (
        "It did not answer and was ended; Resume goes on from its latest checkpoint.",
        "该进程无响应，已被结束；可从最近的检查点继续。",
    ),
    "live.run": ("Run shown", "当前显示"),
    "live.none": ("No run yet. Start trains on the chosen feedback.", "还没有训练。点击“开始”即可用所选数据训练。"),
    "live.part": ("Curves of", "曲线来源"),
    "live.both": ("both", "两者"),
    "live.train": ("training rows", "训练数据"),
    "live.eval": ("held-out rows", "留出数据"),
    "live.smoothing": ("Smoothing", "平滑"),
    "live.at_step": ("at step {step:,}", "第 {step:,} 步"),
    "live.chart": ("Third chart", "第三张图"),
    "chart.rewards": ("Rewards, and β·z0 between them", "奖励，以及其间的 β·z0"),
    "chart.z0": ("Reference point z0, and the KL, in nats", "参考点 z0 与 KL（单位 nat）"),
    "chart.rewards.alone": ("Rewards", "奖励"),
    "chart.kl": ("KL, in nats", "KL（单位 nat）"),
    "chart.accuracies": ("Pairs told right (objectives of pairs)", "判断正确的成对回答比例（成对目标）"),
    "chart.kl.error": (
        "The KL is ± {error} (one standard error, {count} answers).",
        "KL 的标准误为 ± {error}（{count} 个回答）。",
    ),
    "chart.z0.why": (
        " z0 looks at answers that other rows happen to bring, and never below 0; the KL is measured on what the tuned "
        "model itself would say.",
        "z0 只看其他数据行碰巧带来的回答，且不低于 0；KL 则在训练后模型自己会说的回答上测得。",
    ),
    "chart.loss": ("Loss", "损失"),
    "chart.judged": ("Win rate against the reference, by the judge", "评判者眼中对参考模型的胜率"),
    "chart.judged.why": (
        "Judge {judge}, at step {step}: win rate {rate} ± {error} (standard error, {count} held-out prompts); the "
        "highest so far was {best} at step {best_step}.",
        "评判者 {judge}，第 {step} 步：胜率 {rate} ± {error}（标准误，{count} 个留出的提示）；"
        "目前最高为第 {best_step} 步的 {best}。",
    ),
    "chart.logps": ("Log-probabilities of the answers", "回答的对数概率"),
    "chart.learning_rate": ("Learning rate", "学习率"),
    "chart.grad_norm": ("Gradient norm", "梯度范数"),
    "chart.tokens_per_second": ("Tokens a second", "每秒词元数"),
    "chart.memory": ("Memory (GiB)", "内存（GiB）"),
    "curve.chosen": ("thumbs up", "点赞"),
    "curve.rejected": ("thumbs down", "点踩"),
    "curve.margin": ("margin", "差值"),
    "curve.held_out": ("{curve}, held out", "{curve}（留出）"),
    "curve.beta_z0": ("β·z0", "β·z0"),
    "curve.delta": ("δ, the mean reward", "δ，平均奖励"),
    "curve.accuracies": ("share of pairs", "成对比例"),
    "curve.z0": ("z0", "z0"),
    "curve.z0_raw": ("before clamping at 0", "截断到 0 之前"),
    "curve.kl_sampled": ("KL of its own answers", "自身回答的 KL"),
    "curve.win_rate": ("win rate by the judge", "评判者眼中的胜率"),
    "curve.loss": ("loss", "损失"),
    "curve.learning_rate": ("learning rate", "学习率"),
    "curve.grad_norm": ("gradient norm", "梯度范数"),
    "curve.tokens_per_second": ("tokens a second", "每秒词元数"),
    "curve.memory": ("GiB", "GiB"),
    "progress.label": ("Progress of the training", "训练进度"),
    "progress.step": ("step {step:,} of {total:,}", "第 {step:,} / {total:,} 步"),
    "progress.epoch": ("epoch {epoch}", "第 {epoch} 轮"),
    "progress.left": ("{time} left", "剩余 {time}"),
    "progress.took": ("took {time}", "用时 {time}"),
    "progress.waking": (
        "The training process is loading its libraries and the model.",
        "训练进程正在加载程序库和模型。",
    ),
    "progress.log": ("End of its log", "日志末尾"),
    "time.seconds": ("{count} s", "{count} 秒"),
    "time.minutes": ("{count} min", "{count} 分钟"),
    "time.hours": ("{hours} h {minutes} min", "{hours} 小时 {minutes} 分"),
    "state.planned": ("to come", "待进行"),
    "state.ended": ("ended early", "提前结束"),
    "state.queued": ("waiting", "排队中"),
    "state.starting": ("starting", "启动中"),
    "state.running": ("training", "训练中"),
    "state.stopping": ("stopping", "停止中"),
    "state.finished": ("finished", "已完成"),
    "state.stopped": ("stopped", "已停止"),
    "state.failed": ("failed", "失败"),
    "state.crashed": ("crashed", "已崩溃"),
    "state.not answering": ("not answering", "无响应"),
    "samples.title": ("<h2>Watched answers</h2>", "<h2>观察用的回答</h2>"),
    "samples.now": ("Answer again now", "立即重新回答"),
    "samples.none": ("Watched answers appear here while the run trains.", "训练期间，这里会显示观察用的回答。"),
    "samples.step": ("at step {step:,}", "第 {step:,} 步"),
    "answer.reference": ("Reference", "参考模型"),
    "answer.tuned": ("Tuned", "训练后"),
    # compare
    "compare.intro": (
        "<h2>The same prompt, the same seed, with and without what was learned</h2>",
        "<h2>同样的提示、同样的种子：学习前后对照</h2>",
    ),
    "compare.prompt": ("Prompt", "提示"),
    "compare.prompt.help": ("Several: a line of --- between them.", "多个提示之间用单独一行 --- 隔开。"),
    "compare.file.title": ("Prompts from a file", "来自文件的提示"),
    "compare.file": (
        "TXT (one a line), CSV, JSONL or JSON; asked instead of the text above",
        "TXT（每行一个）、CSV、JSONL 或 JSON；用来代替上面的文本",
    ),
    "compare.ideas": ("Try one of these", "试试这些"),
    "compare.against": ("Against", "对照"),
    "compare.its_reference": ("the run's reference", "该训练的参考模型"),
    "compare.settings": ("System prompt and sampling", "系统提示与采样"),
    "compare.system": ("System prompt", "系统提示"),
    "compare.temperature": ("Temperature", "温度"),
    "compare.temperature.help": (
        "0 is greedy, which misleads on small models.",
        "0 为贪心解码，对小模型容易误导。",
    ),
    "compare.length": ("Longest answer, in tokens", "最长回答（词元）"),
    "compare.unload": ("Unload the models", "卸载模型"),
    "compare.unloaded": (
        "The models are unloaded; the next answer loads them again.",
        "模型已卸载；下次回答时会重新载入。",
    ),
    "compare.seed": ("Seed", "种子"),
    "compare.generate": ("Answer", "生成"),
    "compare.another": ("Another seed", "换个种子"),
    "compare.halt": ("Stop", "停止"),
    "compare.empty": ("Write a prompt first.", "请先输入提示。"),
    "compare.waiting": ("Waking the model …", "正在唤醒模型……"),
    "compare.same": (
        "Both sides answered the same; try another seed, or train longer.",
        "两边回答相同；换个种子，或训练更久再试。",
    ),
    "compare.more": (
        "These are the first {shown:,} prompts; {count:,} more are left to the evaluation below.",
        "这里只回答前 {shown:,} 个提示；其余 {count:,} 个请用下方的评估。",
    ),
    "answers.read": (
        '<button type="button" class="kto-reads"><span>Read as Markdown</span><span>Read as it is</span></button>',
        '<button type="button" class="kto-reads"><span>按 Markdown 显示</span><span>按原文显示</span></button>',
    ),
    "compare.marks": ("Mark differences", "标出差异"),
    "compare.key.mark": ("underlined", "带下划线"),
    "compare.key": ("what only this side says here", "此处只有这一边说的内容"),
    "compare.where": (
        "Prompts {first:,} to {last:,} of {total:,}; {ready:,} answered by both.",
        "第 {first:,} 至 {last:,} 个提示，共 {total:,} 个；两边都已回答 {ready:,} 个。",
    ),
    "side.choose": ("Who answers", "由谁回答"),
    "side.choose.help": (
        "A run, a checkpoint, a named endpoint, or any model: type a folder or a hub id.",
        "训练、检查点、已命名的接口，或任意模型：输入文件夹或 Hub 名称。",
    ),
    "side.endpoint": ("{name} · {model}, at an endpoint", "{name} · 接口上的 {model}"),
    "side.model": ("{model} · model as it is", "{model} · 原模型"),
    "side.reference": ("reference", "参考模型"),
    "side.checkpoint": ("checkpoint {step}", "检查点 {step}"),
    # why
    "why.open": ("Why? The reward, token by token", "为什么？逐词元看奖励"),
    "why.close": ("Back to the text", "回到文本"),
    "why.waiting": ("Both sides read the answer …", "两边正在阅读这个回答……"),
    "why.reward": (
        "reward = β · Σ = {beta:g} × {total:+.4f} nats = {reward:+.4f}",
        "奖励 = β · Σ = {beta:g} × {total:+.4f} nat = {reward:+.4f}",
    ),
    "why.less": ("-{full:.2g} nats: likelier before", "-{full:.2g} nat：对照一方更可能这样说"),
    "why.more": ("+{full:.2g} nats: likelier after tuning", "+{full:.2g} nat：训练后更可能这样说"),
    "why.strongest": ("Strongest:", "影响最大："),
    # the blind vote
    "blind.title": ("Blind vote", "盲投"),
    "blind.help": (
        "<h2>Which answer is better, not knowing whose it is</h2><p>Keys: ← for A, → for B, ↓ for a tie, space for "
        "the next pair. Each vote becomes two thumbs, up for the better answer and down for the other; a tie becomes "
        "none. Sides, system prompt and sampling are those chosen above.</p>",
        "<h2>不知道出自哪一边时，哪个回答更好</h2><p>按键：← 选 A，→ 选 B，↓ 平局，空格看下一对。"
        "每一票记为两个反馈：较好的点赞，另一个点踩；平局不记。双方、系统提示与采样沿用上面的选择。</p>",
    ),
    "blind.from.held-out": ("held out by this run", "此训练留出的提示"),
    "blind.from.suggested": ("the suggestions above", "上面建议的提示"),
    "blind.from.file": ("from a file", "来自文件"),
    "blind.count": ("Pairs, at most", "最多几对"),
    "blind.unveils": ("Show the sides after each vote", "每次投票后揭示双方"),
    "blind.unveils.help": ("Off: only at the end, which stays blind longest.", "不选则到最后才揭示，盲得最彻底。"),
    "blind.start": ("Start the vote", "开始投票"),
    "blind.reveal": ("Unveil the figures", "揭示结果"),
    "blind.left": ("← A is better", "← A 更好"),
    "blind.tie": ("↓ Tie", "↓ 平局"),
    "blind.right": ("→ B is better", "→ B 更好"),
    "blind.next": ("Next pair (space)", "下一对（空格）"),
    "blind.won.tuned": ("You chose the tuned side.", "你选了训练后的一边。"),
    "blind.won.reference": ("You chose the other side, not the tuned one.", "你选了对照的一边，而不是训练后的。"),
    "blind.won.tie": ("A tie: no thumbs.", "平局：不记反馈。"),
    "blind.over": ("That was the last pair. Every vote is kept.", "已是最后一对。每一票都已保存。"),
    "blind.gone": ("This vote is no longer here; start a new one.", "这次投票已不在；请重新开始。"),
    "blind.no_prompts": (
        "This run has no prompts to suggest; take them from a file.",
        "此训练没有可建议的提示；请使用文件。",
    ),
    "blind.none": ("There are no votes on these sides yet.", "这两边还没有投票。"),
    "blind.same": (
        "Equal answers, which were not shown and count as ties: {count:,}.",
        "两个相同的回答不展示，按平局计：{count:,} 对。",
    ),
    "blind.all": (
        "All {n:,} votes on these sides: win rate {rate:.1%}, between {low:.1%} and {high:.1%}.",
        "这两边的全部 {n:,} 票：胜率 {rate:.1%}，95% 区间 {low:.1%} 至 {high:.1%}。",
    ),
    "blind.votes": ("The votes ({count:,})", "各次投票（{count:,}）"),
    "blind.column.winner": ("Winner", "胜者"),
    "blind.column.prompt": ("Prompt", "提示"),
    "blind.column.reference": ("Reference side", "对照一边"),
    "blind.column.tuned": ("Tuned side", "训练后一边"),
    "blind.winner.tuned": ("tuned", "训练后"),
    "blind.winner.reference": ("reference", "对照"),
    "blind.winner.tie": ("tie", "平局"),
    # evaluate
    "evaluate.title": ("Evaluate on many prompts", "在多个提示上评估"),
    "evaluate.intro": (
        "<h2>Who wins, and at what length</h2><p>Both sides answer every prompt with the same seed; a judge says "
        "which "
        "answer wins. It goes on if the page is closed, and is kept with the run.</p>",
        "<h2>谁胜出，又靠多长的回答</h2><p>两边用同一种子回答每个提示，由评判者决定哪个回答胜出。"
        "关闭页面后仍会继续，结果随训练保存。</p>",
    ),
    "evaluate.prompts": ("Prompts", "提示"),
    "evaluate.prompts.held-out": ("Held-out prompts", "训练时留出的提示"),
    "evaluate.prompts.demo": ("The demo's evaluation", "示例的评估提示"),
    "evaluate.limit": ("At most, 0 for all", "最多（0 为全部）"),
    "evaluate.upload": ("Add a file of prompts", "添加提示文件"),
    "evaluate.taken": ("{count:,} prompts in {name}.", "{name} 中有 {count:,} 个提示。"),
    "evaluate.judge": ("Judge", "评判者"),
    "judge.none": ("nobody: lengths and KL only", "无：只看长度与 KL"),
    "judge.regex": ("a pattern occurs", "匹配正则表达式"),
    "judge.length": ("so many words", "词数在范围内"),
    "judge.shorter": ("fewer words win", "词少者胜"),
    "judge.longer": ("more words win", "词多者胜"),
    "judge.json": ("valid JSON", "有效的 JSON"),
    "judge.exact": ("is the expected answer", "与预期答案一致"),
    "judge.contains": ("contains the expected answer", "包含预期答案"),
    "judge.demo": ("the demo's: kind and brief", "示例的评判：友善而简短"),
    "judge.reward": ("a reward model", "奖励模型"),
    "judge.endpoint": ("a language model at an endpoint", "接口上的语言模型"),
    "evaluate.argument": ("Detail", "细节"),
    "evaluate.argument.regex": ("Pattern; ! before it: must not occur", "正则表达式；前加 ! 表示不得出现"),
    "evaluate.argument.length": ("Words, such as 10-50", "词数，例如 10-50"),
    "evaluate.argument.reward": ("Model: a folder or a hub id", "模型：文件夹或 Hub 名称"),
    "evaluate.checkpoints": ("Every checkpoint", "所有检查点"),
    "evaluate.checkpoints.help": ("A win rate for each step.", "每一步的胜率。"),
    "evaluate.endpoint": ("Endpoint", "接口"),
    "evaluate.endpoint.help": (
        "Whoever runs this workbench names endpoints, with `kto endpoint add`.",
        "接口由运行本工作台的人用 `kto endpoint add` 命名。",
    ),
    "evaluate.criteria": ("What makes an answer better", "什么样的回答更好"),
    "evaluate.criteria.help": (
        "Empty: helpful, correct, honest, polite.",
        "留空：有帮助、正确、诚实、礼貌。",
    ),
    "evaluate.max_tokens": ("Longest reply", "最长答复（词元）"),
    "evaluate.price_read": ("Price of a million tokens read", "每百万输入词元的价格"),
    "evaluate.price_written": ("Price of a million tokens written", "每百万输出词元的价格"),
    "evaluate.count": ("{count:,} prompts.", "{count:,} 个提示。"),
    "evaluate.cost": (
        "The judge gets at most {requests:,} requests: about {read:,} tokens to read, {written:,} to write{price}. "
        "Texts count as characters / 4, answers as the longest allowed.",
        "评判者最多收到 {requests:,} 个请求：约读 {read:,} 个词元，写 {written:,} 个{price}。"
        "文本按字符数 / 4 计，回答按允许的最大长度计。",
    ),
    "evaluate.price": (", {price:,.2f} in money", "，费用 {price:,.2f}"),
    "evaluate.start": ("Evaluate", "开始评估"),
    "evaluate.shown": ("Evaluation shown", "当前显示的评估"),
    "evaluate.progress": ("Progress of the evaluation", "评估进度"),
    "evaluate.state.starting": ("starting", "启动中"),
    "evaluate.state.running": ("at work", "进行中"),
    "evaluate.state.stopped": ("stopped", "已停止"),
    "evaluate.state.failed": ("failed", "失败"),
    "evaluate.state.crashed": ("broke off", "已中断"),
    "evaluate.stage.waking": ("Waking the model …", "正在唤醒模型……"),
    "evaluate.stage.waiting": ("Waiting for the device …", "正在等待设备……"),
    "evaluate.stage.answers": ("{done:,} of {total:,} answers", "已生成 {done:,} / {total:,} 个回答"),
    "evaluate.stage.scores": ("Measured {done:,} of {total:,} sides", "已测量 {done:,} / {total:,} 方"),
    "evaluate.stage.judge": ("Judged {done:,} of {total:,}", "已评判 {done:,} / {total:,}"),
    "evaluate.wins_blind": ("won by the tuned side in your blind vote", "训练后一方在你的盲投中的胜率"),
    "evaluate.wins_by": ("won by the tuned side, by judge {judge}", "训练后一方的胜率（评判：{judge}）"),
    "evaluate.spoken": (
        "Win rate {rate:.1%}, between {low:.1%} and {high:.1%} (95 %; ties count half).",
        "胜率 {rate:.1%}，95% 区间 {low:.1%} 至 {high:.1%}（平局计一半）。",
    ),
    "evaluate.counts": (
        "Wins: {wins:,}, ties: {ties:,}, losses: {losses:,}.",
        "{wins:,} 胜，{ties:,} 平，{losses:,} 负。",
    ),
    "evaluate.sign_test": ("Sign test: p {p}.", "符号检验：p {p}。"),
    "evaluate.unread": ("The judge said nothing that could be read.", "评判者的答复都无法读取。"),
    "evaluate.longer_won": (
        "Of the pairs that somebody won, the longer answer won {share:.0%}: this judgement may be one of length.",
        "在分出胜负的各对中，较长的回答赢了 {share:.0%}：评判的也许只是长度。",
    ),
    "evaluate.biased": (
        "The judge chose the answer that stood first {share:.0%} of the time; such pairs count as ties.",
        "评判者有 {share:.0%} 的时候选择了排在前面的回答；这样的对按平局计。",
    ),
    "evaluate.unparsed": (
        "{count:,} replies could not be read, and their pairs are left out; a judge that thinks first needs longer "
        "replies.",
        "{count:,} 个答复无法读取，相应的对未计入；会先思考的评判者需要更长的答复。",
    ),
    "evaluate.figures": ("Figures", "数据"),
    "evaluate.words": ("Words an answer", "每个回答的词数"),
    "evaluate.tokens": ("Tokens an answer", "每个回答的词元数"),
    "evaluate.distinct_1": ("Distinct words (distinct-1)", "不同词的比例（distinct-1）"),
    "evaluate.distinct_2": ("Distinct pairs (distinct-2)", "不同词对的比例（distinct-2）"),
    "evaluate.kl.per_answer": ("KL to the other side, nats an answer", "与另一方的 KL（每个回答，nat）"),
    "evaluate.kl.per_token": ("KL, nats a token", "KL（每个词元，nat）"),
    "evaluate.bias": ("Position bias (50 % is none)", "位置偏差（50% 为无）"),
    "evaluate.requests": ("Requests", "请求"),
    "evaluate.asked": ("{asked:,}; {cached:,} known before", "{asked:,}；{cached:,} 个已有答复"),
    "evaluate.rate": ("win rate", "胜率"),
    "evaluate.interval": ("95 % interval", "95% 区间"),
    "evaluate.by_step": ("Win rate by step", "各步的胜率"),
    "evaluate.kl_by_step": ("KL by step, nats an answer", "各步的 KL（每个回答，nat）"),
    "evaluate.examples.tuned": ("Wins: {shown} of {count:,}", "胜：{count:,} 个中的 {shown} 个"),
    "evaluate.examples.reference": ("Losses: {shown} of {count:,}", "负：{count:,} 个中的 {shown} 个"),
    # what nobody rated
    "unrated.title": ("What nobody rated: good answers", "无人评价之处：好回答的比例"),
    "unrated.n": ("Of", "共"),
    "unrated.alarm": (
        "Nobody rated this, and it got worse: {name}, {reference:.0%} → {tuned:.0%} of {n:,} (sign test: p = {p:.2g}).",
        "无人评价，却变差了：{name}，{reference:.0%} → {tuned:.0%}，共 {n:,}（符号检验：p = {p:.2g}）。",
    ),
    "unrated.sums": ("sums", "算术"),
    "unrated.facts": ("facts", "常识"),
    "unrated.reading": ("reading", "阅读理解"),
    "unrated.following": ("doing as told", "遵照要求"),
    "unrated.language": ("in the prompt's language", "与提示同一语言"),
    "unrated.answered": ("answered, not refused", "作答而未拒绝"),
    # feedback
    "feedback.chat": ("Give each answer a thumb", "给每个回答点赞或点踩"),
    "feedback.empty": (
        "Ask something. A thumb under an answer is kept at once, and can be trained on.",
        "问点什么。回答下方的点赞或点踩会立即保存，并可用于训练。",
    ),
    "feedback.wait": ("Wait until the answer is complete, then vote again.", "请等回答完成后再投票。"),
    "feedback.send": ("Ask", "提问"),
    "feedback.again": ("Another answer", "换个回答"),
    "feedback.clear": ("New chat", "新对话"),
    "feedback.collected": ("collected", "已收集"),
    "feedback.train": ("Train on these →", "用这些训练 →"),
    "feedback.tab.chat": ("Chat", "对话"),
    "feedback.tab.review": ("Review many", "批量评审"),
    "feedback.about": ("More about an answer", "关于某个回答"),
    "feedback.about.none": ("There is no answer yet.", "还没有回答。"),
    "feedback.about.help": ("The last one, unless you choose another.", "默认是最后一个，也可另选。"),
    "feedback.note": ("Note", "备注"),
    "feedback.note.help": ("Why? Kept with the vote.", "理由？与评价一同保存。"),
    "feedback.better": ("A better answer", "更好的回答"),
    "feedback.better.help": (
        "Change the text: yours is kept as a thumb up; the model's as a thumb down, unless you voted for it.",
        "修改文本：你写的记为点赞，模型的记为点踩，除非你已为它投票。",
    ),
    "feedback.keep": ("Keep note and answer", "保存备注与回答"),
    "feedback.kept.note": ("The note is kept.", "备注已保存。"),
    "feedback.kept.back": ("Your answer is taken back.", "你的回答已撤回。"),
    "feedback.kept.better": ("Your answer is kept as a thumb up.", "你的回答已记为点赞。"),
    "feedback.thumb_first": (
        "Give the answer a thumb first; the note is kept with it.",
        "请先给这个回答点赞或点踩；备注会随之保存。",
    ),
    "feedback.nothing_new": ("Write a note or change the answer first.", "请先写备注或修改回答。"),
    "feedback.days": ("Collected by day", "每日收集"),
    "feedback.wrote": ("By who wrote the answer", "按回答者"),
    "feedback.by_hand": ("written by hand", "手写"),
    "feedback.days.before": ("before", "更早"),
    # the next round
    "round.title": ("<h2>The next round</h2>", "<h2>下一轮</h2>"),
    "round.start": ("Starts from", "起点"),
    "round.start.base": ("the base model", "基础模型"),
    "round.start.adapter": ("this run's adapter", "此训练的适配器"),
    "round.reference": ("Rewards count against", "奖励相对于"),
    "round.reference.base": ("the base model", "基础模型"),
    "round.reference.start": ("base + this adapter", "基础模型 + 此适配器"),
    "round.follows.fresh": (
        "A fresh adapter learns from all thumbs collected here; what this run has learned is left aside.",
        "新的适配器从这里收集的全部反馈学起；此训练学到的内容不会沿用。",
    ),
    "round.follows.base": (
        "Training goes on from what this run has learned; rewards count all that changed since the base model, so β "
        "holds the model near the base.",
        "在此训练所学之上继续；奖励计入相对基础模型的全部变化，β 使模型不远离基础模型。",
    ),
    "round.follows.start": (
        "Training goes on from what this run has learned; rewards begin at 0 again, so β holds the model near this "
        "run's, and rounds may lead further and further from the base.",
        "在此训练所学之上继续；奖励重新从 0 算起，β 使模型不远离此训练的结果，多轮之后可能离基础模型越来越远。",
    ),
    "round.follows.model": (
        "A fresh adapter on {model} learns from all thumbs collected here.",
        "{model} 上新的适配器从这里收集的全部反馈学起。",
    ),
    "round.follows.endpoint": (
        "An endpoint can't be trained: choose in Train which model learns from these thumbs.",
        "接口上的模型无法训练：请在“训练”页选择由哪个模型学习这些反馈。",
    ),
    "round.follows.full": (
        "This run tuned the whole model: training goes on from its model, and rewards count against that model.",
        "此训练微调了整个模型：从它的模型继续，奖励相对于该模型。",
    ),
    "round.on": ("Goes on from {start}.", "从 {start} 继续。"),
    "round.on.base": (
        "Rewards count against the base model without that adapter.",
        "奖励相对于不带该适配器的基础模型。",
    ),
    "round.on.start": ("Rewards count against the base model with that adapter.", "奖励相对于基础模型加该适配器。"),
    "round.on.uniform": ("Rewards count against a uniform reference.", "奖励相对于均匀分布。"),
    # the review
    "review.help": (
        "<p>One answer at a time, by keyboard: ↑ or U thumbs up, ↓ or D thumbs down, → or space skips, ← or Z goes "
        "back and takes that vote away. Each vote is kept at once.</p>",
        "<p>逐个评价回答，可用键盘：↑ 或 U 点赞，↓ 或 D 点踩，→ 或空格跳过，← 或 Z 退回并撤销该票。"
        "每一票都立即保存。</p>",
    ),
    "review.from": ("Prompts", "提示来源"),
    "review.from.held_out": ("held out by this run", "此训练留出的提示"),
    "review.from.all": ("all of its data", "其全部数据"),
    "review.from.file": ("from a file", "来自文件"),
    "review.file": ("Prompts: TXT (one a line), CSV, JSONL or JSON", "提示文件：TXT（每行一个）、CSV、JSONL 或 JSON"),
    "review.each": ("Answers to each", "每个提示的回答数"),
    "review.start": ("Start the review", "开始评审"),
    "review.up": ("↑ Thumbs up", "↑ 点赞"),
    "review.down": ("↓ Thumbs down", "↓ 点踩"),
    "review.skip": ("→ Skip", "→ 跳过"),
    "review.back": ("← Back", "← 退回"),
    "review.where": ("{number:,} of {total:,}", "第 {number:,} / {total:,} 个"),
    "review.votes": ("{up:,} up, {down:,} down", "赞 {up:,}，踩 {down:,}"),
    "review.waiting": ("Answers are being written …", "正在生成回答……"),
    "review.empty": ("(an empty answer)", "（空回答）"),
    "review.over": (
        "That was the last one: {up:,} thumbs up, {down:,} thumbs down. Every vote is kept.",
        "已全部看完：点赞 {up:,}，点踩 {down:,}。每一票都已保存。",
    ),
    "review.no_file": ("Drop a file with prompts first.", "请先拖入提示文件。"),
    "review.gone": ("This review is no longer here; start a new one.", "这次评审已不在；请重新开始。"),
    # sweeps
    "sweep.title": ("Sweep: several values, one run each", "扫描：取多个值，各训练一次"),
    "sweep.intro": (
        "<p>Everything else is as the Train tab says. Runs take their turn one after the other, share what the "
        "reference costs, and go on by themselves when this page is closed.</p>",
        "<p>其余设置与“训练”页相同。各次训练依次进行，共用参考模型的计算结果；关闭本页后仍会继续。</p>",
    ),
    "sweep.option": ("Option", "选项"),
    "sweep.values": ("Values, with commas between", "取值（用逗号分隔）"),
    "sweep.by": ("Compared by", "比较依据"),
    "sweep.by.help": (
        "Every β has a loss of its own scale, so losses compare only what leaves that scale alone.",
        "每个 β 的损失各有尺度，因此只有尺度不变时才能按损失比较。",
    ),
    "sweep.by.auto": ("the judge, where one is named; else the ranking", "有评判者则按评判者，否则按排序"),
    "sweep.by.ranking": ("ranking: thumbs up above thumbs down, held out", "排序：留出数据中点赞高于点踩的比例"),
    "sweep.by.judge": ("win rate by the judge", "评判者眼中的胜率"),
    "sweep.by.eval_loss": ("held-out loss", "留出数据上的损失"),
    "sweep.halving": ("End hopeless runs early", "提前结束无望的训练"),
    "sweep.halving.help": (
        "All are trained for a part of their steps, and only the best third goes on, for three times as many.",
        "先让全部训练一部分步数，只有最好的三分之一继续，步数为此前的三倍。",
    ),
    "sweep.start": ("Start the sweep", "开始扫描"),
    "sweep.again": ("Go on", "继续"),
    "sweep.shown": ("Sweep", "扫描"),
    "sweep.count": ("{count} runs", "{count} 次训练"),
    "sweep.time": (", about {time}", "，约 {time}"),
    "sweep.whole": (", each to its end.", "，全部训练到底。"),
    "sweep.halved": (
        " at most; only the best 1/{times} go on, each time.",
        "（至多）；每次只有最好的 1/{times} 继续。",
    ),
    "sweep.stopping": (
        "The sweep stops; the run at work saves its adapter first.",
        "正在停止扫描；进行中的训练会先保存适配器。",
    ),
    "sweep.going_on": ("The sweep goes on where it was.", "扫描从中断处继续。"),
    "sweep.state.starting": ("starting", "启动中"),
    "sweep.state.running": ("at work", "进行中"),
    "sweep.state.stopping": ("stopping", "停止中"),
    "sweep.state.finished": ("finished", "已完成"),
    "sweep.state.stopped": ("stopped", "已停止"),
    "sweep.state.failed": ("failed", "失败"),
    "sweep.state.crashed": ("broken off", "已中断"),
    "sweep.trial": ("Run", "训练"),
    "sweep.options": ("Options", "选项"),
    "sweep.computed": ("Reference computed", "参考模型计算数"),
    "sweep.ended_at": ("not among the best behind {part} of its steps", "在 {part} 的步数处未进入最好之列"),
    "sweep.best": (
        "The best {measure}: {value} ± {error} with {options}; the standard error is over {over}.",
        "最佳{measure}：{options}，{value} ± {error}（标准误按{over}计算）。",
    ),
    "sweep.best.bare": ("The best {measure}: {value} with {options}.", "最佳{measure}：{options}，{value}。"),
    "sweep.not_apart": (
        "It can't be told apart from {others}: their 95 % intervals overlap.",
        "与 {others} 无法区分：95% 置信区间重叠。",
    ),
    "sweep.apart": (
        "Its 95 % interval overlaps with no other's of those that were trained to the end.",
        "其 95% 置信区间不与其他任何一个训练到底的结果重叠。",
    ),
    "sweep.alone": (
        "No other was trained to its end, to compare it with.",
        "没有其他训练到底的结果可供比较。",
    ),
    "sweep.ranking": (
        "Ranking: how often a held-out thumb up gets a higher reward than a thumb down; a half is chance, 1 is always.",
        "排序：留出数据中点赞的奖励高于点踩的比例；0.5 等于随机，1 为总是如此。",
    ),
    "answer.no_picture": (
        "This run learned from prompts with images, and was asked without one. Its watched answers, and an evaluation "
        "on held-out prompts, show it with them.",
        "该训练的提示带有图片，而这里提问时没有图片。带图片的回答见所观察的回答，以及在留出提示上的评估。",
    ),
    "sweep.none": ("No run of it has finished yet.", "还没有训练完成。"),
    "sweep.unmeasured": (
        "Nothing to compare was measured in the runs that have finished.",
        "已完成的训练中没有可比较的测量值。",
    ),
    "sweep.measure.ranking": ("ranking", "排序"),
    "sweep.measure.judge": ("win rate", "胜率"),
    "sweep.measure.eval_loss": ("held-out loss", "留出损失"),
    "sweep.over.rows": ("held-out rows", "留出的行"),
    "sweep.over.prompts": ("held-out prompts", "留出的提示"),
    "sweep.over.seeds": ("seeds", "种子"),
    "sweep.chart": ("{measure} by {option}, with its 95 % interval", "{option} 与{measure}（含 95% 置信区间）"),
    # runs
    "runs.pick": ("Runs to look at", "要查看的训练"),
    "runs.pick.help": ("One to work with it, several to compare them.", "选一个进行操作，选多个进行比较。"),
    "runs.metric": ("Curve", "曲线"),
    "runs.name": ("Name", "名称"),
    "runs.note": ("Note", "备注"),
    "runs.save": ("Save name and note", "保存名称与备注"),
    "runs.saved": ("Saved.", "已保存。"),
    "runs.watch": ("Show on Train", "在“训练”页显示"),
    "runs.report": ("Report", "报告"),
    "export.button.adapter": ("Export adapter", "导出适配器"),
    "export.button.merged": ("Export merged model", "导出合并模型"),
    "export.button.gguf": ("Export GGUF", "导出 GGUF"),
    "export.gguf": ("GGUF file", "GGUF 文件"),
    "export.adapter": ("adapter", "适配器"),
    "export.merged": ("merged model", "合并模型"),
    "export.working": ("Exporting the {what} …{told}", "正在导出{what}……{told}"),
    "export.done": ("The {what} is in {told}", "{what}位于 {told}"),
    "export.failed": ("The {what} could not be exported. {told}", "{what}导出失败。{told}"),
    "doctor.ask": ("Check this machine, for a bug report", "检查本机（用于报告问题）"),
    "doctor.told": ("What works here, and what is missing", "本机的状况：哪些可用，缺少什么"),
    "runs.folder": ("Folder", "文件夹"),
    "runs.open": ("Open folder", "打开文件夹"),
    "runs.folder.at": (
        "The run is in {path} on the machine that serves this page.",
        "该训练位于提供本页面的机器上：{path}。",
    ),
    "runs.delete": ("Delete", "删除"),
    "runs.undo": ("Undo delete", "撤销删除"),
    "runs.deleted": (
        "Run {run} is in the trash; Undo takes it back, and emptying the trash frees its space.",
        "训练 {run} 已移入回收站；可撤销，清空回收站才会释放空间。",
    ),
    "runs.restored": ("Run {run} is back.", "训练 {run} 已恢复。"),
    "runs.empty": ("Empty the trash", "清空回收站"),
    "runs.emptied": (
        "{count} deleted runs are gone for good; {freed:.1f} MiB are free again.",
        "已彻底删除 {count} 个训练，释放 {freed:.1f} MiB。",
    ),
    "runs.alike": ("These runs have the same settings.", "这些训练的设置相同。"),
    "runs.option": ("Option", "选项"),
    "runs.run": ("Run", "训练"),
    "runs.state": ("State", "状态"),
    "runs.data": ("Data", "数据"),
    "runs.beta": ("β", "β"),
    "runs.weights": ("λ_D / λ_U", "λ_D / λ_U"),
    "runs.rate": ("Learning rate", "学习率"),
    "runs.steps": ("Steps", "步数"),
    "runs.chosen": ("Reward up", "点赞奖励"),
    "runs.rejected": ("Reward down", "点踩奖励"),
    "runs.margin": ("Margin", "差值"),
    "suggest.title": ("Why these settings; yours stay as you set them", "为何这样设置；你自己的设置保持不变"),
    # while there is no run
    "invite.learn": (
        "This needs a trained run. The demo's takes about half a minute, and you can watch it.",
        "这里需要一次训练。示例的训练约需半分钟，可以全程观看。",
    ),
    "invite.compare": (
        "Nothing is trained here yet. Compare any two models or endpoints, chosen below; or train the demo, in about "
        "half a minute, and compare it with its reference.",
        "这里还没有训练。可在下方选择任意两个模型或接口来比较；也可先训练示例（约半分钟），再与其参考模型比较。",
    ),
    "invite.feedback": (
        "Nothing is trained here yet. Choose who answers, then ask, or drop a file of prompts under “Review many”: "
        "your thumbs make the first training. Or train the demo, in about half a minute.",
        "这里还没有训练。选择由谁回答，然后提问，或在“批量评审”中拖入提示文件；你的评价就是第一次训练的数据。也可先训练示例（约半分钟）。",
    ),
    "invite.busy": ("A run is at work; this tab fills when it has ended.", "有训练正在进行；结束后此页便有内容。"),
    "invite.train": ("Train the demo, half a minute", "训练示例（半分钟）"),
    # learn
    "learn.mine": ("Use the settings of the run shown", "使用所示训练的设置"),
    "learn.step": ("Dots: rows at step", "圆点：第几步的数据行"),
    "learn.rows": (
        "Dots: rows of run {run} at step {step:,}, {up:,} with thumbs up, {down:,} with thumbs down; z0 was {z0} nats.",
        "圆点：训练 {run} 第 {step:,} 步的数据行，点赞 {up:,}，点踩 {down:,}；当时 z0 为 {z0} nat。",
    ),
    "learn.means": (
        "Dots: the newest batch means of run {run}, which kept no rewards of single rows.",
        "圆点：训练 {run} 最近各批的均值；该训练没有保存逐行的奖励。",
    ),
    "learn.others": (
        "## Beside DPO and SFT\n"
        "All three pull liked answers up; here is how hard, each relative to its strongest. SFT pulls every "
        "liked answer equally and for ever, and knows no dislike. DPO needs pairs, and pulls the harder the more "
        "a pair is still the wrong way round: a wrong label is obeyed without end. KTO needs single answers with "
        "a thumb, and lets go on both sides: an answer hopelessly against its label hardly moves the model any more.",
        "## 与 DPO、SFT 相比\n"
        "三者都会提高受欢迎回答的概率；图中是各自相对于最强时的力度。SFT 对每个受欢迎的回答一视同仁，永不停止，"
        "也不懂得不喜欢。DPO 需要成对数据，一对回答的次序越错，拉力越大：错误的标注会被无休止地照办。KTO "
        "只需要带有点赞或点踩的单个回答，两侧都会放手：与标注完全相悖的回答几乎不再推动模型。",
    ),
    "learn.sign": (
        "## A puzzle about a sign\n"
        "Some notes write the loss of a disliked answer with a minus sign and then wonder why training makes bad "
        "answers likelier. The paper has it right: the loss is λ<sub>U</sub> − λ<sub>U</sub> · σ(β(z0 − r)). Its "
        "gradient by log π(y|x) is + λ<sub>U</sub> · β · σ · (1 − σ), never negative, and a descent step goes "
        "against it: **the answer becomes less likely**. Turn the sign, and bad answers are pulled up exactly "
        "like good ones. It is an error in the note, not a property of KTO. Two more errors that go round: that KTO "
        "needs pairs (it needs single answers), and that its loss can be negative (it is at least 0).",
        "## 一个关于符号的谜\n"
        "有些笔记把被点踩回答的损失写成带负号的形式，然后疑惑为何训练会让坏回答更可能出现。论文是对的：损失为 "
        "λ<sub>U</sub> − λ<sub>U</sub> · σ(β(z0 − r))。它对 log π(y|x) 的梯度是 + λ<sub>U</sub> · β · σ · (1 − "
        "σ)，从不为负，而梯度下降与之反向：**该回答变得更不可能**。把符号反过来，坏回答就会像好回答一样被抬高。"
        "这是笔记的错误，而不是 KTO 的性质。另外两个常见误解：以为 KTO 需要成对数据（它只需要单个回答）；"
        "以为它的损失可以为负"
        "（它至少为 0）。",
    ),
    "learn.chart.value": ("Value of an answer against r, in nats", "回答的价值（横轴 r，单位 nat）"),
    "learn.chart.pull": (
        "Pull on an answer against r: above 0 up, below 0 down",
        "对回答的拉力（横轴 r）：大于 0 抬高，小于 0 压低",
    ),
    "learn.chart.others": (
        "Pull on a liked answer against r (KTO), the pair's margin (DPO)",
        "对受欢迎回答的拉力（横轴：KTO 为 r，DPO 为成对差值）",
    ),
    # groups of options, as GROUPS in config.py has them
    "group.basics": ("<h3>Model and data</h3>", "<h3>模型与数据</h3>"),
    "group.kto": ("<h3>The KTO objective</h3>", "<h3>KTO 目标</h3>"),
    "group.lora": ("<h3>The adapter</h3>", "<h3>适配器</h3>"),
    "group.optimization": ("<h3>Optimization</h3>", "<h3>优化</h3>"),
    "group.memory": ("<h3>Length, memory and precision</h3>", "<h3>长度、内存与精度</h3>"),
    "group.records": ("<h3>Evaluation, checkpoints and records</h3>", "<h3>评估、检查点与记录</h3>"),
    "group.judge": ("<h3>A judge while training</h3>", "<h3>训练时的评判者</h3>"),
    "group.samples": ("<h3>Answers to watch while training</h3>", "<h3>训练时观察的回答</h3>"),
    # what the unfolded options do, in one line; the whole help is in config.py
    "short.model": ("demo, a folder, or a hub id", "demo、文件夹或 Hub 名称"),
    "short.objective": ("what thumbs are for", "反馈如何使用"),
    "short.data": ("the feedback", "反馈数据"),
    "short.beta": ("smaller: further away", "越小，离参考模型越远"),
    "short.desirable_weight": ("weight, from the data", "权重，随数据而定"),
    "short.undesirable_weight": ("weight, from the data", "权重，随数据而定"),
    "short.tuning": ("an adapter, or every weight", "适配器，或全部权重"),
    "short.lora_r": ("rank of the adapter", "适配器的秩"),
    "short.load_in_4bit": ("QLoRA: a quarter of the memory", "QLoRA：约四分之一的显存"),
    "short.learning_rate": ("at its peak", "峰值"),
    "short.batch_size": ("examples of one step", "每步的样本数"),
    "short.num_train_epochs": ("times through the data", "遍历数据的次数"),
    "short.max_length": ("in tokens", "词元数"),
}

# Names of options where the option's own name says too little; the others are called as in YAML.
OPTION_NAMES: dict[str, tuple[str, str]] = {
    "model": ("Model", "模型"),
    "objective": ("Objective", "目标"),
    "beta": ("β", "β"),
    "desirable_weight": ("λ_D, thumbs up", "λ_D，点赞"),
    "undesirable_weight": ("λ_U, thumbs down", "λ_U，点踩"),
    "learning_rate": ("Learning rate", "学习率"),
    "batch_size": ("Batch size", "批大小"),
    "num_train_epochs": ("Epochs", "轮数"),
    "max_length": ("Longest row", "最大长度"),
    "lora_r": ("LoRA rank", "LoRA 秩"),
    "load_in_4bit": ("4-bit model", "4 位模型"),
    "tuning": ("Tuning", "微调方式"),
}


def _with_options() -> dict[str, tuple[str, str]]:
    words = WORDS | LESSON_WORDS
    for name in STEPS_OF_LEARN:  # a step's title and its sentence, as one piece of the page
        titles, texts = words[f"lesson.{name}.title"], words[f"lesson.{name}.text"]
        words[f"lesson.{name}"] = tuple(
            re.sub("λ_([DU])", r"λ<sub>\1</sub>", f"<h3>{title}</h3><p>{text}</p>")
            for title, text in zip(titles, texts, strict=True)
        )
    for kind, english in NOTES.items():
        for part, texts in zip(("what", "hint"), zip(english, NOTES_ZH[kind], strict=True), strict=True):
            words[f"note.{kind}.{part}"] = texts
    for kind, english in SETTINGS.items():
        words[f"suggest.{kind}"] = (english, SETTINGS_ZH[kind])
    for name, objective in OBJECTIVES.items():
        words[f"objective.{name}"] = (f"{name} {objective.learns}.", f"{name} {OBJECTIVES_ZH[name]}。")
    for name, field in options().items():
        words[f"option.{name}"] = OPTION_NAMES.get(name, (name, name))
        words[f"help.{name}"] = (field.description or "", OPTION_HELP_ZH.get(name, field.description or ""))
    return words


_ALL = _with_options()

# The browser asks for its own language first, then for the plain one; whoever reads Chinese gets the Chinese we have.
TRANSLATIONS: dict[str, dict[str, str]] = {
    locale: {key: pair[LANGUAGES.index(language)] for key, pair in _ALL.items()}
    for locale, language in (("en", "en"), ("zh", "zh"), ("zh-CN", "zh"), ("zh-TW", "zh"))
}


def label(key: str) -> I18nData:
    """A string that the browser shows in its own language."""
    if key not in _ALL:
        raise KeyError(key)
    return I18nData(key)


def say(language: str, key: str, **values: Any) -> str:
    """A string in a language, its places filled."""
    text = _ALL[key][LANGUAGES.index(language)]
    return text.format(**values) if values else text


def retell(language: str, sentence: object) -> str:
    """A sentence of the engine in the page's language; in English where there is no translation."""
    said = str(sentence)
    if language != "zh" or said in PIECES_ZH:
        return PIECES_ZH.get(said, said) if language == "zh" else said
    for patterns in (REASONS_ZH, SENTENCES_ZH):
        for pattern, chinese in patterns.items():
            if found := re.fullmatch(pattern, said, re.DOTALL):
                return chinese.format(*(retell(language, part or "") for part in found.groups()))
    return said


def finding_words(language: str, finding: Finding) -> tuple[str, str, str]:
    """A finding's title, advice and fix in the page's language; in English where there is no translation."""
    english = finding.title, finding.advice, finding.fix or ""
    if language != "zh" or finding.name not in FINDINGS_ZH:
        return english
    title, advice, fix = FINDINGS_ZH[finding.name]
    figures = dict(finding.details)
    if "auc" in figures:  # told as in English: above a half, whichever side is longer
        figures["telling"] = max(figures["auc"], 1 - figures["auc"])
    try:
        title = title.format(count=finding.count, **figures)
    except (KeyError, ValueError):  # a finding with other figures than it had when it was translated
        return english
    return title, advice if finding.advice else "", fix if finding.fix else ""


def language_of(request: gr.Request | None) -> str:
    """The language that the browser asks for: `zh` if it begins with that, else `en`."""
    headers = getattr(request, "headers", None) or {}
    return "zh" if str(headers.get("accept-language", "")).strip().lower().startswith("zh") else "en"
