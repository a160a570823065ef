"""The style sheet: light and dark by the reader's system, one column on a phone."""

#: Okabe and Ito's colours, the dark ones lighter where the page is dark.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#555555", "#B87A00", "#B0568C", "#2A8FC7", "#000000", "#7A4B3A")
DARK = ("#56A8E0", "#FF8A3D", "#2CC79B", "#B0B0B0", "#F0B429", "#E39AC6", "#8CCBF2", "#FFFFFF", "#C99A86")


def _colours(values: tuple) -> str:
    return "".join(f"--c{number}:{value};" for number, value in enumerate(values))


STYLE = (
    ":root{color-scheme:light dark;--page:#fff;--ink:#1d2329;--quiet:#656d76;--rule:#d8dee4;--soft:#f4f6f8;"
    + "--link:#0860b8;"
    + _colours(LIGHT)
    + "}@media (prefers-color-scheme:dark){:root{--page:#12161b;--ink:#e4e8ec;--quiet:#98a2ad;--rule:#313942;"
    + "--soft:#1b2128;--link:#6cb2f5;"
    + _colours(DARK)
    + "}}"
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,nav{max-width:74rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.5rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--rule)}
h3{font-size:1.05rem;line-height:1.35;margin:2rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;list-style:none;padding:0;margin:.8rem 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem;margin:1.2rem 0}
.tiles div{background:var(--soft);border-radius:.5rem;padding:.6rem .8rem;
color:var(--quiet);font-size:.88rem;line-height:1.3}
.tiles b{display:block;font-size:1.45rem;color:var(--ink);font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--rule);border-radius:.5rem}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:.38rem .65rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
tbody tr:last-child td{border-bottom:0}
th{font-weight:600;background:var(--soft)}
td small{display:block;color:var(--quiet);font-size:.8rem}
.words{text-align:left}
th:first-child,td:first-child{position:sticky;left:0;background:var(--page)}
th:first-child{background:var(--soft)}
td:first-child{font-weight:500;border-right:1px solid var(--rule)}
.quiet{color:var(--quiet)}
.notes{color:var(--quiet);font-size:.84rem;padding-left:1.1rem;margin:.4rem 0;max-width:60rem}
.charts.one{max-width:38rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1.2rem}
figure{margin:0;position:relative;min-width:0}
figcaption{font-weight:600;font-size:.92rem}
svg{display:block;width:100%;height:auto;touch-action:pan-y}
svg text{fill:var(--quiet);font-size:12px}
.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.printed{stroke-dasharray:5 4}
circle.printed{fill:var(--page);stroke-width:2}
.key i.printed{width:.62rem;height:.62rem;border:2px solid;border-radius:50%}
.band{opacity:.16;stroke:none}
.switch{stroke-width:1;stroke-dasharray:2 3}
.cursor{stroke:var(--quiet);stroke-width:1;visibility:hidden}
.key{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.82rem;list-style:none;margin:.2rem 0 0;padding:0}
.key i{display:inline-block;width:.9rem;height:.22rem;margin-right:.35rem;vertical-align:middle;border-radius:2px}
.tip{position:absolute;top:1.9rem;z-index:2;pointer-events:none;visibility:hidden;
background:var(--page);color:var(--ink);
border:1px solid var(--rule);border-radius:.4rem;padding:.35rem .55rem;
font-size:.8rem;line-height:1.4;white-space:nowrap;
box-shadow:0 2px 10px #0003;font-variant-numeric:tabular-nums}
details{margin:.6rem 0}
summary{cursor:pointer;color:var(--link)}
footer{margin:3rem 0 2rem;color:var(--quiet);font-size:.84rem}
@media (max-width:30rem){body{font-size:15px}th,td{padding:.34rem .5rem}
th:first-child,td:first-child{white-space:normal;min-width:6.2rem}}
@media print{.scroll{overflow:visible}}
"""
)
