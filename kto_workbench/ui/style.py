"""Theme and CSS: system fonts (nothing is fetched), one accent, thin lines, the same distances everywhere."""

import gradio as gr
from gradio.themes.utils import colors, sizes

from kto_workbench.views.curves import DOWN, HELD_OUT, REFERENCE, UP

FONT = ("Inter", "system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """A quiet theme for light and dark."""
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=[gr.themes.Font(name) for name in FONT],
        font_mono=[gr.themes.Font(name) for name in MONO],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="500",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_500",
        input_border_width="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_900",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_transform_hover="none",
        button_transform_active="none",
        shadow_drop="none",
        color_accent="*primary_600",
        color_accent_soft="*primary_50",
        button_large_text_size="15px",
        button_large_text_weight="550",
        button_large_padding="9px 16px",
        slider_color="*primary_600",
        checkbox_background_color_selected="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
    )


CSS = (
    f":root {{ --kto-up: {UP}; --kto-down: {DOWN}; --kto-reference: {REFERENCE}; }}"
    f"path[aria-roledescription='line mark'][stroke='{HELD_OUT}'] {{ stroke-dasharray: 5 3; }}"
    f".kto-curve[style*='{HELD_OUT}']::before {{ background: repeating-linear-gradient(90deg, {HELD_OUT} 0 4px,"
    " transparent 4px 6px); }"
    + """
.gradio-container {
  width: 100% !important; max-width: 1240px !important; margin: 0 auto !important;
  padding: 16px clamp(0px, 1.6vw, 20px) 48px !important;
}
.gradio-container .prose, .gradio-container .html-container { color: var(--body-text-color); }
.gradio-container main, .gradio-container .tabs, .gradio-container .tabitem, .gradio-container .column { min-width: 0; }
.gradio-container main { width: 100%; }
div.main.fillable { padding: 12px clamp(12px, 2.6vw, 32px) !important; }
footer { display: none !important; }
/* What is clicked before gradio listens would be lost without a word, but for the tabs. */
body:not(.kto-listens) { cursor: progress; }
body:not(.kto-listens) main { pointer-events: none; }
body:not(.kto-listens) [role="tablist"] { pointer-events: auto; }
.block.kto-bare { border: 0 !important; background: none !important; padding: 0 !important;
  box-shadow: none !important; }
.kto-bare .html-container, .kto-bare > .html-container { padding: 0 !important; }
.kto-bare [data-testid="status-tracker"] { display: none !important; }
button:focus-visible, summary:focus-visible, a:focus-visible, .kto-scroll:focus-visible {
  outline: 2px solid var(--primary-500) !important; outline-offset: 2px;
}

/* What gradio writes too faintly to be read by everyone: at least 4.5 : 1 */
body:not(.dark) button[role="tab"].selected { color: var(--primary-700) !important; }
.dark button[role="tab"].selected { color: var(--primary-400) !important; }
.min_value, .max_value, .or, .cm-gutterElement { color: var(--block-info-text-color) !important; }
.cm-content, .cm-content span { color: var(--body-text-color) !important; }

/* A slider's knob can be seen on white, and its track is not the brightest thing of a dark page */
input[type="range"]::-webkit-slider-thumb { box-shadow: 0 0 0 1px var(--neutral-400) !important; }
input[type="range"]::-moz-range-thumb { box-shadow: 0 0 0 1px var(--neutral-400) !important; }
.dark input[type="range"] { --neutral-200: var(--neutral-700); }
.gradio-container sub { color: inherit; line-height: 0; }

.kto-title { display: flex; align-items: baseline; gap: 14px; flex-wrap: wrap; margin-bottom: 4px; }
.kto-title h1 { font-size: 22px; font-weight: 650; letter-spacing: -.01em; margin: 0; }
.kto-title p { margin: 0; color: var(--block-info-text-color); }
.kto-section h2, .kto-section h3 { font-size: 15px !important; font-weight: 600; margin: 0 !important; }
.kto-section h3 { margin-top: 10px !important; }
.kto-section p { margin: 0; font-size: 13px; line-height: 1.45; color: var(--block-info-text-color); max-width: 72ch; }

.kto-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(116px, 1fr)); gap: 12px; margin: 0; }
.kto-card { border: 1px solid var(--block-border-color); border-radius: 8px; padding: 12px 14px;
  background: var(--block-background-fill); }
.kto-card dt { font-size: 12.5px; color: var(--block-info-text-color); }
.kto-card dd { margin: 2px 0 0; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.kto-card span { font-size: 12px; color: var(--block-info-text-color); }

#data-lengths .kto-cards { grid-template-columns: repeat(3, 1fr); }
#data-lengths .kto-cards:empty { display: none; }

.kto-balance { border: 1px solid var(--block-border-color); border-radius: 8px; padding: 16px;
  background: var(--block-background-fill); display: grid; gap: 12px; }
.kto-bar-row { display: grid; grid-template-columns: 84px 1fr minmax(128px, max-content); gap: 12px;
  align-items: center;
  font-size: 13px; }
.kto-bar { display: flex; height: 18px; border-radius: 5px; overflow: hidden; gap: 2px; background: none; }
.kto-bar i { display: block; height: 100%; transition: width .25s ease; }
.kto-bar i.kto-up, .kto-key.kto-up::before { background: var(--kto-up); }
.kto-bar i.kto-down, .kto-key.kto-down::before { background: var(--kto-down); }
.kto-bar-numbers { font-variant-numeric: tabular-nums; white-space: nowrap; }
.kto-bar-numbers b { font-weight: 600; }
.kto-keys { display: flex; gap: 18px; font-size: 12.5px; color: var(--block-info-text-color); padding-left: 96px; }
.kto-days { padding: 12px 14px; gap: 7px; }
.kto-days h3 { font-size: 13px !important; font-weight: 550; margin: 0 0 2px !important; }
.kto-days .kto-bar-row { grid-template-columns: 76px 1fr minmax(48px, max-content); gap: 10px; font-size: 12.5px; }
.kto-days .kto-bar { height: 12px; }
.kto-days .kto-keys { padding-left: 86px; }
.kto-days + .kto-days { margin-top: 12px; }
.kto-days[data-of="feedback.wrote"] .kto-bar-row { gap: 2px 10px;
  grid-template-columns: 1fr minmax(48px, max-content); }
.kto-days[data-of="feedback.wrote"] .kto-bar-name { grid-column: 1 / -1; overflow-wrap: anywhere; }
.kto-days[data-of="feedback.wrote"] .kto-bar { grid-column: 1; grid-row: auto; }
.kto-days[data-of="feedback.wrote"] .kto-keys { padding-left: 0; }
.kto-days .kto-bar-numbers { text-align: right; }
.kto-review { display: grid; gap: 12px; border: 1px solid var(--block-border-color); border-radius: 8px;
  padding: 14px 16px; background: var(--block-background-fill); }
.kto-review header { display: flex; align-items: center; gap: 10px; font-size: 14px; font-weight: 550; }
.kto-review header small { margin-left: auto; font-weight: 400; color: var(--block-info-text-color); }
.kto-review .kto-answer-box { font-size: 16px; background: none; }
#review-actions button { padding-inline: 8px; white-space: nowrap; }
#review-panel:focus { outline: none; }
#review-panel:not(:has(.kto-review)) #review-actions { display: none; }
.kto-key::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }

.kto-message { margin: 0 !important; padding: 8px 12px; border-radius: 7px; font-size: 14px; line-height: 1.45;
  border-left: 3px solid currentColor; overflow-wrap: anywhere; }
.kto-columns { max-height: 220px; }
.kto-columns td:last-child { overflow-wrap: anywhere; }
.kto-error { --tint: #d23b3b; }
.kto-warning { --tint: #c98a12; }
.kto-fine { --tint: var(--kto-up); }
.kto-error, .kto-warning, .kto-fine, .kto-info, .kto-pill {
  color: color-mix(in srgb, var(--tint) 55%, var(--body-text-color));
  background: color-mix(in srgb, var(--tint) 13%, var(--block-background-fill));
}
.kto-plain { color: var(--block-info-text-color); background: none; padding: 4px 0 0; border: 0; }
.kto-notes { list-style: none; margin: 0 !important; padding: 0 !important; display: grid; gap: 8px; }
.kto-notes em { font-style: normal; opacity: .8; }
.kto-info { --tint: #6b87b5; }
.kto-stack { display: grid; gap: 12px; }
.kto-panel { border: 1px solid var(--block-border-color); border-radius: 8px; padding: 14px 16px 8px;
  background: var(--block-background-fill); }
.kto-learn { display: inline-block; width: 17px; height: 17px; line-height: 17px; text-align: center; font-size: 11.5px;
  border-radius: 9px; text-decoration: none; color: var(--link-text-color); vertical-align: 1px;
  background: color-mix(in srgb, var(--primary-600) 12%, var(--block-background-fill)); }
.kto-gloss { cursor: help; text-decoration: underline dotted color-mix(in srgb, currentColor 45%, transparent);
  text-underline-offset: 3px; }
.kto-invite { border: 1px dashed var(--block-border-color); border-radius: 8px; padding: 14px 16px; }
.kto-invite button { align-self: flex-start; }
.kto-reasons ul { margin: 6px 0 0 !important; padding-left: 18px !important; }
.kto-reasons li { font-size: 13px; line-height: 1.5; color: var(--block-info-text-color); }
.kto-reasons b { font-weight: 550; color: var(--body-text-color); }
.kto-table tr.kto-worse td, .kto-table tr.kto-worse th { color: #b42318; font-weight: 600; }
.dark .kto-table tr.kto-worse td, .dark .kto-table tr.kto-worse th { color: #ff8f7e; }
.kto-lesson { padding: 10px 0 4px; border-top: 1px solid var(--block-border-color); scroll-margin-top: 12px; }
.kto-lesson-text h3 { font-size: 15px !important; font-weight: 600; margin: 4px 0 6px !important; }
.kto-lesson-text p { font-size: 14.5px; line-height: 1.6; margin: 0; }
.kto-lesson .kto-panel { padding: 12px 14px 8px; }
.kto-text { max-width: 76ch; }
.kto-text h2 { font-size: 16px; font-weight: 600; margin: 4px 0 6px; }
.kto-text p, .kto-text li { font-size: 14.5px; line-height: 1.6; }
.kto-drawing { width: 100%; height: auto; display: block; color: var(--body-text-color); }
.kto-table th[scope="row"] { color: inherit; }
.kto-rendered { margin: 0 !important; white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--font-mono);
  font-size: 12.5px; line-height: 1.55; color: var(--block-info-text-color); }
.kto-rendered mark { color: var(--body-text-color); border-radius: 3px;
  background: color-mix(in srgb, var(--kto-up) 20%, var(--block-background-fill)); }
.kto-row small { color: var(--block-info-text-color); font-size: 12px; }
.kto-empty { color: var(--block-info-text-color); font-size: 14px; margin: 0; padding: 12px 0; }

.kto-scroll { overflow: auto; max-height: 280px; border: 1px solid var(--block-border-color); border-radius: 8px;
  background: var(--block-background-fill); }
/* A shadow at the side on which there is more */
.kto-scroll { --kto-shade: color-mix(in srgb, var(--body-text-color) 18%, transparent); background:
  linear-gradient(to right, var(--block-background-fill) 40%, transparent) left / 32px 100% no-repeat local,
  linear-gradient(to left, var(--block-background-fill) 40%, transparent) right / 32px 100% no-repeat local,
  linear-gradient(to right, var(--kto-shade), transparent) left / 9px 100% no-repeat scroll,
  linear-gradient(to left, var(--kto-shade), transparent) right / 9px 100% no-repeat scroll,
  var(--block-background-fill); }
.kto-scroll.kto-tall { max-height: none; }
.kto-scroll table, .kto-scroll thead, .kto-scroll tbody, .kto-scroll tr, .kto-scroll th { border: 0 !important; }
.kto-scroll td, .kto-scroll th[scope="row"] { border: 0 !important; }
.kto-scroll td, .kto-scroll th[scope="row"] {
  border-top: 1px solid var(--block-border-color) !important; white-space: normal;
}
.kto-table { width: 100%; border-collapse: collapse; font-size: 13.5px; margin: 0; }
.kto-table th { text-align: left; font-weight: 500; color: var(--block-info-text-color); padding: 7px 10px;
  white-space: nowrap; }
.kto-table td { padding: 7px 10px; border-top: 1px solid var(--block-border-color); vertical-align: top;
  font-variant-numeric: tabular-nums; }
.kto-table td.kto-number, .kto-table th.kto-number { text-align: right; }

.kto-rows { list-style: none; margin: 0 !important; padding: 0 !important; border: 1px solid var(--block-border-color);
  border-radius: 8px; background: var(--block-background-fill); }
.kto-row { display: grid; grid-template-columns: 30px 1fr auto; gap: 10px; padding: 11px 14px; margin: 0 !important; }
.kto-row + .kto-row { border-top: 1px solid var(--block-border-color); }
.kto-row > div { min-width: 0; }
svg.kto-thumb { width: 17px; height: 17px; margin-top: 2px; fill: var(--kto-up); }
svg.kto-thumb.kto-down { fill: var(--kto-down); transform: rotate(180deg); }
.kto-chart { gap: 6px !important; }
.kto-told:not(:has(.kto-message)) { display: none !important; }
#runs-difference:not(:has(.kto-table, .kto-empty, .kto-message)) { display: none !important; }
#learn-sliders > .form { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); }
#learn-values .kto-plain { padding: 8px 2px 0; font-size: 13px; }
.kto-chart-head h3 { font-size: 14px !important; font-weight: 550; margin: 0 0 3px !important; }
.kto-chart-head h3 small { font-size: 12px; font-weight: 400; color: var(--block-info-text-color); }
.kto-curves { display: flex; gap: 4px 16px; flex-wrap: wrap; font-size: 13px; color: var(--block-info-text-color); }
.kto-curve::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  background: var(--curve); vertical-align: middle; margin-right: 6px; }
.kto-curve b { font-weight: 600; color: var(--body-text-color); font-variant-numeric: tabular-nums; }
.kto-aside { margin: 2px 0 0 !important; font-size: 12.5px; line-height: 1.4; color: var(--block-info-text-color); }
.kto-toolbar { align-items: center; }
#data-rendered { flex: 0 1 auto; width: auto; }
#feedback-chat .placeholder { padding: 0 16px; text-align: center; }
.kto-toolbar > .kto-bare { flex: 0 1 auto; width: auto; white-space: nowrap; }
.kto-prompt { margin: 0 !important; font-weight: 550; overflow-wrap: anywhere; white-space: pre-wrap; }
.kto-prompt small, .kto-line, .kto-sample small { color: var(--block-info-text-color); font-weight: 400;
  font-size: 12px; }
.kto-context { font-size: 13px; color: var(--block-info-text-color); margin: 0 0 4px; overflow-wrap: anywhere; }
.kto-context summary { cursor: pointer; }
.kto-context[open] { border-left: 2px solid var(--block-border-color); padding-left: 10px; }
.kto-pictures { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 6px; }
.kto-pictures img { max-width: 160px; max-height: 160px; border-radius: 4px; }
.kto-context .kto-prompt { margin-top: 6px !important; }
.kto-row .kto-prompt { font-weight: 400; font-size: 13.5px; color: var(--block-info-text-color); }
.kto-row .kto-answer { font-size: 15px; }
.kto-answer { margin: 3px 0 0 !important; white-space: pre-wrap; overflow-wrap: anywhere; }

.kto-progress { border: 1px solid var(--block-border-color); border-radius: 8px; padding: 14px 16px;
  background: var(--block-background-fill); display: grid; gap: 10px; }
.kto-progress-line { display: flex; gap: 12px; align-items: center; flex-wrap: wrap; font-size: 14px; }
.kto-progress-line code { margin-left: auto; font-size: 12px; color: var(--block-info-text-color); background: none; }
.kto-facts { font-variant-numeric: tabular-nums; }
.kto-track { height: 8px; border-radius: 4px; overflow: hidden;
  background: color-mix(in srgb, var(--body-text-color) 14%, var(--block-background-fill)); }
.kto-track i { display: block; height: 100%; background: var(--primary-600); transition: width .6s linear; }
.kto-track i.kto-state-failed, .kto-track i.kto-state-crashed, .kto-track i.kto-state-not { background: #c73a3a; }
.kto-track i.kto-state-stopped { background: var(--neutral-400); }
.kto-pill {
  --tint: #7b8794; font-size: 12.5px; font-weight: 550; padding: 2px 9px; border-radius: 99px; white-space: nowrap;
}
.kto-pill.kto-state-running, .kto-pill.kto-state-finished { --tint: var(--kto-up); }
.kto-pill.kto-state-failed, .kto-pill.kto-state-crashed, .kto-pill.kto-state-not { --tint: #d23b3b; }
.kto-log summary { cursor: pointer; font-size: 13px; }
.kto-log pre, pre.kto-code { overflow: auto; max-height: 320px; font-size: 12.5px; line-height: 1.5;
  white-space: pre-wrap;
  overflow-wrap: anywhere; padding: 10px 12px; border-radius: 7px;
  background: color-mix(in srgb, var(--body-text-color) 6%, var(--block-background-fill)); margin: 6px 0 0; }

.kto-sample { border: 1px solid var(--block-border-color); border-radius: 8px; background: var(--block-background-fill);
  padding: 12px 16px; margin-bottom: 12px; }
.kto-sample small { white-space: nowrap; }
.kto-sample header { display: flex; justify-content: space-between; gap: 12px; margin-bottom: 8px; }
.kto-sides { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
.kto-side h4, .kto-answer-title { margin: 0; font-size: 12.5px; font-weight: 500; color: var(--block-info-text-color); }
.kto-answer-box { min-height: 120px; padding: 14px 16px; white-space: pre-wrap; overflow-wrap: anywhere;
  line-height: 1.55;
  border: 1px solid var(--block-border-color); border-radius: 8px; background: var(--block-background-fill); }
.kto-of-tuned .kto-answer-box { border-color: var(--primary-600); }
.kto-side h3 { font-size: 15px !important; font-weight: 600; margin: 0 0 6px !important; overflow-wrap: anywhere; }
.kto-side h3 small { font-size: 12px; font-weight: 400; color: var(--block-info-text-color); }
.kto-side { min-width: 0; display: flex; flex-direction: column; }
.kto-compared { display: grid; gap: 8px; }
.kto-compared + .kto-compared { border-top: 1px solid var(--block-border-color); padding-top: 14px; }
.kto-compared .kto-side > div { flex: 1; display: flex; flex-direction: column; }
.kto-compared .kto-answer-box { flex: 1; }
mark.kto-only { color: inherit; background: color-mix(in srgb, #e5b800 20%, transparent); border-radius: 2px;
  text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 3px;
  text-decoration-color: #c99a00; }
body:not(.kto-reads-markdown) :is(.kto-markdown, .kto-reads span + span) { display: none; }
body.kto-reads-markdown :is(.kto-as-is:has(+ .kto-markdown), .kto-reads span:first-child) { display: none; }
.kto-markdown { white-space: normal; }
.kto-markdown > :first-child { margin-top: 0; }
.kto-markdown > :last-child { margin-bottom: 0; }
.kto-markdown :is(h1, h2, h3, h4, h5, h6) { font-size: 1.05em; font-weight: 600; margin: .8em 0 .4em; }
.kto-markdown :is(p, ul, ol, pre, table, blockquote) { margin: .5em 0; }
.kto-markdown :is(ul, ol) { padding-left: 1.6em; }
.kto-markdown ul { list-style: disc; }
.kto-markdown ol { list-style: decimal; }
.kto-markdown pre { overflow-x: auto; }
.kto-markdown code { font-size: .92em; }
.kto-markdown blockquote { border-left: 2px solid var(--block-border-color); padding-left: 10px; }
.kto-markdown :is(th, td) { border: 1px solid var(--block-border-color); padding: 3px 8px; }
.kto-markdown small { color: var(--block-info-text-color); overflow-wrap: anywhere; }
.kto-buttons > .kto-bare { flex: 0 0 auto; width: auto; align-self: center; }
button.kto-reads { padding: 5px 10px; font-size: 13px; cursor: pointer; white-space: nowrap;
  color: var(--link-text-color); background: none; border: 1px solid var(--block-border-color); border-radius: 7px; }
button.kto-reads:hover { background: var(--button-secondary-background-fill-hover); }
button.kto-why { align-self: flex-start; margin-top: 8px; padding: 5px 10px; font-size: 13px; cursor: pointer;
  color: var(--link-text-color); background: none; border: 1px solid var(--block-border-color); border-radius: 7px; }
button.kto-why:hover { background: var(--button-secondary-background-fill-hover); }
.kto-heat span { border-radius: 2px; box-decoration-break: clone; -webkit-box-decoration-break: clone;
  background: color-mix(in srgb, var(--kto-up) var(--depth), var(--block-background-fill)); }
.kto-heat span.kto-down { background: color-mix(in srgb, var(--kto-down) var(--depth), var(--block-background-fill)); }
.kto-heat span:hover { outline: 1px solid var(--body-text-color); }
.kto-reward { margin: 8px 0 4px !important; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.kto-heat-scale { display: grid; grid-template-columns: auto minmax(40px, 1fr) auto; gap: 8px; align-items: center;
  font-size: 12px; color: var(--block-info-text-color); }
.kto-heat-scale i { height: 10px; border-radius: 3px; background: linear-gradient(to right,
  color-mix(in srgb, var(--kto-down) 58%, var(--block-background-fill)), var(--block-background-fill),
  color-mix(in srgb, var(--kto-up) 58%, var(--block-background-fill))); }
.kto-buttons > .form:has(#compare-marks) { flex: 0 1 auto; align-self: center; border: 0; background: none; }
#blind-panel:focus { outline: none; }
#blind-panel:not(:has([data-card])) #blind-actions, #blind-panel:has([data-phase=open]) #blind-next,
#blind-panel:has([data-phase=voted]) :is(#blind-left, #blind-tie, #blind-right) { display: none; }
.kto-won-side .kto-answer-box { border-color: var(--primary-600); border-width: 2px; }
.kto-buttons button { flex: 0 1 auto; }
.kto-buttons > .block:has(> label input[type="checkbox"], > .checkbox-container) { flex: 0 0 auto !important;
  width: auto; min-width: 180px !important; margin: 0 !important; }

.kto-evaluation { display: grid; gap: 12px; }
.kto-won p { margin: 8px 0 4px !important; font-size: 13.5px; color: var(--block-info-text-color); }
.kto-won-rate b { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.kto-won-rate span { color: var(--block-info-text-color); font-size: 14px; }
.kto-won-line { position: relative; height: 18px; margin: 8px 0 3px; border-radius: 5px;
  background: color-mix(in srgb, var(--body-text-color) 9%, var(--block-background-fill)); }
.kto-won-line i { position: absolute; top: 5px; height: 8px; border-radius: 4px; background: var(--kto-up);
  opacity: .45; }
.kto-won-line b { position: absolute; top: 1px; width: 4px; height: 16px; margin-left: -2px; border-radius: 2px;
  background: var(--kto-up); }
.kto-won-line u { position: absolute; left: 50%; top: 0; height: 100%; border-left: 1px dashed var(--body-text-color);
  opacity: .6; }
.kto-won-ends { display: grid; grid-template-columns: 1fr 1fr 1fr; font-size: 12px;
  color: var(--block-info-text-color); }
.kto-won-ends span:nth-child(2) { text-align: center; }
.kto-won-ends span:last-child { text-align: right; }
.kto-evaluation th { white-space: normal; }
.kto-evaluation th small { font-weight: 400; overflow-wrap: anywhere; }
.kto-evaluation .kto-sample { margin: 10px 0 0; }

.kto-narrow { display: none; }

@media (max-width: 1000px) {
  #learn-sliders > .form { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (max-width: 640px) {
  #learn-sliders > .form { grid-template-columns: minmax(0, 1fr); }
  .kto-buttons { gap: 8px !important; }
  .kto-buttons button { min-width: 0 !important; padding-left: 12px; padding-right: 12px; }
  .tab-container button { padding: 0 5px !important; font-size: 13.5px; }
  .kto-wide { display: none; }
  .kto-narrow { display: block; }
  .kto-cards { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  #data-lengths .kto-cards { grid-template-columns: repeat(2, 1fr); }
  #data-lengths .kto-card:first-child { grid-column: 1 / -1; }
  .kto-bar-row { grid-template-columns: 1fr auto; gap: 4px 10px; }
  .kto-bar { grid-column: 1 / -1; grid-row: 2; }
  #data-side, #data-rendered { flex: 1 1 100% !important; }
  .kto-keys, .kto-days .kto-keys { padding-left: 0; }
  #review-actions button { flex: 1 1 40% !important; min-height: 48px; }
  .kto-heat-scale { grid-template-columns: 1fr 1fr; }
  .kto-heat-scale i { grid-column: 1 / -1; order: -1; }
  .kto-heat-scale span:last-child { text-align: right; }
  #blind-actions button { flex: 1 1 28% !important; min-height: 48px; padding: 4px; }
  #review-back, #review-skip { order: 1; }
  .kto-sides { grid-template-columns: 1fr; gap: 12px; }
  /* A run a card, each figure beside its name */
  .kto-as-cards thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden; }
  .kto-as-cards tr { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 14px; padding: 10px 12px;
    border-top: 1px solid var(--block-border-color) !important; }
  .kto-as-cards td { display: flex; justify-content: space-between; gap: 8px; padding: 2px 0; border: 0 !important; }
  .kto-as-cards td:first-child, .kto-as-cards td[colspan] { display: block; grid-column: 1 / -1;
    overflow-wrap: anywhere; }
  .kto-as-cards td[data-name]::before { content: attr(data-name); color: var(--block-info-text-color); }
  .kto-progress-line code { margin-left: 0; }
}
@media (prefers-reduced-motion: reduce) { .kto-bar i, .kto-track i { transition: none; } }
"""
)
