"""Procedural street scenes in perspective, with Cityscapes label and instance ids; `scene.render` draws one.

World coordinates are metres: x to the right, y up from the road, z ahead. The camera stands at x = z = 0 and looks
along z; the vanishing point moves by shifting the picture, so planes along the street stay planes of constant x.
Everything is painted far to near. A buffer keeps which surface each pixel shows, so that labels have no blended
edges and texture, cast shadows and fog can be computed for the whole picture at once from each pixel's depth.

Each draws from the modules above it only; every one takes its chance from the canvas's one random generator, so the
order of the calls is part of what a seed means.

geometry.py  palette.py  textures.py  light.py   shapes, colours and chance, materials and noise, weather and hour
canvas.py                   projection, painting, surfaces, shadows
buildings.py  roadside.py   what stands beside the road
body.py  vehicles.py        a vehicle's body, and the vehicles
figures.py                  flat figures: cycles and people
ground.py  backdrop.py  placing.py   the street's measures, what lies flat, far and near, where things stand
finish.py  scene.py         texture, shadow, fog, lens and sensor; the order of the story
"""
