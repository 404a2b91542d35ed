"""Procedural street scenes in perspective, with Cityscapes label and instance ids; `scene.render` draws one.

World coordinates are metres: x to the right, y up from the road, z ahead. The camera stands at x = z = 0 and looks
along z; the vanishing point moves by shifting the picture, so planes along the street stay planes of constant x.
Everything is painted far to near. A buffer keeps which surface each pixel shows, so that labels have no blended
edges and texture, cast shadows and fog can be computed for the whole picture at once from each pixel's depth.

Each draws from the modules above it only; every one takes its chance from the canvas's one random generator, so the
order of the calls is part of what a seed means.

geometry.py   types, the camera's constants, outlines of simple shapes
palette.py    colours, and chance
textures.py   materials and the noise that they are made of
light.py      the weather and the hour
canvas.py     projection, painting, surfaces, shadows
buildings.py  plants.py  furniture.py   what stands beside the road
body.py       cars.py  vehicles.py      a vehicle's body, and the vehicles
figure.py     cycles.py  people.py      flat figures, and what they make
layout.py     the street's measures
ground.py     backdrop.py               what lies flat; what is infinitely far and what is nearest
placing.py    where things stand on the street
finish.py     texture, shadow, fog, lens and sensor; the labels
scene.py      the order of the story
"""
