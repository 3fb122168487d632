"""Makes bars.ttf, the font of the site: `|` is a bar, and everything else a gap twice as wide. It needs fontTools."""

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

EM = 1000
BAR, GAP = 300, 600


def bar():
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for point in [(50, 700), (250, 700), (250, 0)]:
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


font = FontBuilder(EM, isTTF=True)
font.setupGlyphOrder([".notdef", "space", "bar"])
font.setupCharacterMap({ord(" "): "space", ord("|"): "bar"})
font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "space": TTGlyphPen(None).glyph(), "bar": bar()})
font.setupHorizontalMetrics({".notdef": (GAP, 0), "space": (GAP, 0), "bar": (BAR, 50)})
font.setupHorizontalHeader(ascent=800, descent=-200)
font.setupNameTable({"familyName": "Site Bars", "styleName": "Regular", "uniqueFontIdentifier": "site-bars", "fullName": "Site Bars", "psName": "SiteBars"})
font.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
font.setupPost()
font.save("bars.ttf")
